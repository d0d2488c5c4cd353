// Package verification has the commands of drover backend, which test a backend on a pool of this host, and runs the
// suite of package backends/backendtest. Each run has a folder in the pool, a sandbox, which package trialdir locks.
// The package keeps no state in memory.
package verification
