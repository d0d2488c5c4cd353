// Package pools has the commands of drover pool, and the words for capabilities and states of pools that other packages
// of commands use. Package main adds them to the command tree. The commands call the API, and keep no state.
package pools
