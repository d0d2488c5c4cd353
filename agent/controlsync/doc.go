// Package controlsync keeps this node and control in agreement. Follower applies what control decides. Reporter reports
// the status of this node's datasets and pools. Holdings reports the content of its pools when control's store was lost
// or restored and must be brought up to date.
//
// Package agent runs Follower and Reporter until the agent stops. Package agent also calls Follower.Join at a start and
// Holdings.RebuildStore for drover store rebuild. lease.Deadlines calls Follower.Join to have control confirm a lease.
// Holdings calls Follower.Accept after a rebuild. Package pooladmin calls Reporter.ReportPools after a change of a
// pool, and lists the datasets of an adopted pool with Holdings (ListPool, and ListStorage for a dry run). Package
// operation calls Reporter.ReportDataset after a resize. StatusReader reads the status of a dataset for Reporter, for
// packages offline and volume, and for the metrics. Package operation reads the status of a new dataset from it
// (StatusOfNew) and calls OperationEnded, and package mounting calls BeforeUnmount. TrashReader measures the trash for
// the metrics. Package doctor lists the findings of Reporter and StatusReader. Most of these calls go through functions
// that package agent passes.
//
// The records that Follower applies are in the cache (host.Host.Cache) and on disk. Follower.applying makes sure that
// only one answer is applied at a time. The package owns three keys of the agent's database: recovery, whose value is
// also in Follower, protected by Follower.mu; answered, which has the time of control's last answer (Reporter); and
// usage/ (StatusReader). In Reporter, a mutex protects the errors of the replicas and the time of the last answer. The
// request for a complete report (Reporter.everything) is atomic. All other state of Reporter belongs to the goroutine
// of Run. StatusReader also keeps in memory how full datasets were, and TrashReader the sizes that it measured, each
// under a mutex. Holdings has no state.
//
// Where to change what: what a record of control causes on this node is in follower.go, and when a store counts as
// restored in comparestore.go and known.go. What a heartbeat contains is in reporter.go and status.go. How full a
// dataset is, is in usage.go.
package controlsync
