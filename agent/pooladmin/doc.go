// Package pooladmin makes, adopts, accepts, trims and removes the pools of this node, and destroys datasets that have
// no record (Collector). Cleaner removes what is left of moves, operations and other homes. Generations notices a pool
// whose disk was restored from an older state, and Quarantine lets it serve again. Locks of host.Host.Locks serialize
// the requests (lockPools, Remover.lockPool). The pools and their records belong to package pool.
package pooladmin
