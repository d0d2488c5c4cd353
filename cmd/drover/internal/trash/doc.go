// Package trash has the commands of drover trash. Package main adds them to the command tree. The commands call the
// API, and keep no state.
package trash
