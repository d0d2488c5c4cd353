// Package nodes has the commands of drover node. Package main adds them to the command tree. The commands call the API,
// and keep no state.
package nodes
