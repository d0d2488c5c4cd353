// Package stores has the commands of drover store. Package main adds them to the command tree. Some commands call the
// API. The others open the store themselves, and lock the root while they do (daemon.OpenUnserved).
package stores
