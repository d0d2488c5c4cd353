// Package verification has the commands of drover backend, which test a backend on a pool of this host. Package main
// adds them to the command tree, and passes VerifyPool to the commands as App.VerifyPool. AwaitPool,
// AreQuotasConsistent, QuotaWarning and VerdictOrder are exported only for tests. The cases of the test are in package
// backends/backendtest. The package keeps no state in memory. Each run has a folder in the pool, a sandbox, which
// package trialdir locks.
package verification
