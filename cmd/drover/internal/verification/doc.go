// Package verification has the commands of drover backend, which test a backend on a pool of this host. Package main
// adds them to the command tree. The cases of the test are in package backends/backendtest. The package keeps no state
// in memory. Each run has a folder in the pool, a sandbox, which package trialdir locks.
package verification
