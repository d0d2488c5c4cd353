// Package stores has the commands of drover store. Package main adds them to the command tree. Some commands call the
// API. The others open the store themselves, and lock the root while they do (daemon.OpenUnserved). The package keeps
// no state in memory. The format of an export is in package control/store/dump, and the decisions of rebuild and
// recover are in package control/recovery.
package stores
