// Package snapshots has the commands of drover snapshot. Package main adds them to the command tree. The commands call
// the API, and keep no state.
package snapshots
