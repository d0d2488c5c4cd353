// Package verification has the commands of drover backend, which test a backend on a pool of this host. Package main
// adds them to the command tree. The package keeps no state: the folder of a run is a corner of the pool, locked by
// package trialdir.
package verification
