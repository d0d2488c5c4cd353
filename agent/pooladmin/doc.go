// Package pooladmin makes, adopts, accepts, trims and removes the pools of this node, and destroys datasets that have
// no record.
//
// Package agent calls it: for the requests of an operator, and at each heartbeat to trim pools (Trimmer) and to resume
// interrupted removals (Remover.Continue). It has no state. The pools and their records belong to package pool; locks
// of package host serialize the requests (see lockPools and Remover.lockPool).
package pooladmin
