// Package volumes has the commands of drover volume, drover snapshot, drover trash and drover replica, and drover
// clone. They call the API, and keep no state. The table of drover volume ls is made from summaries
// (api.VolumeSummary), so a new column may need a new field there.
package volumes
