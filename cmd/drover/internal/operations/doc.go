// Package operations has the commands of drover operation. Package main adds them to the command tree. The commands
// call the API, and keep no state.
package operations
