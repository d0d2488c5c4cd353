// Package profiles has the commands of drover profile. Package main adds them to the command tree. The commands read
// files and call the API, and keep no state.
package profiles
