// Package volumes has the commands of drover volume and drover replica, and drover clone. Package main adds them to the
// command tree. Packages pools, status and trash use its words for the state of a volume. The commands call the API,
// and keep no state. The table of drover volume ls is made from summaries (api.VolumeSummary), so a new column may need
// a new field there.
package volumes
