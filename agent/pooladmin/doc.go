// Package pooladmin makes, adopts, accepts, trims and removes the pools of this node, and destroys datasets that have
// no record.
//
// Package agent calls it: for the requests of an operator, and at each heartbeat to trim pools (Trimmer), and to resume
// interrupted removals (Remover.Continue). The pools and their records belong to package pool. This package has no
// state. Locks of host.Host.Locks serialize the requests (see lockPools and Remover.lockPool). Each task has a type and
// a file: Creator makes and adopts pools, Quarantine accepts them, Remover removes them, Trimmer trims them, and
// Collector destroys datasets without a record. The steps of a removal are listed in remover.go. Which paths and
// devices a new pool may have is checked in package pool.
package pooladmin
