// Package pooladmin makes, adopts, accepts, trims and removes the pools of this node, and destroys datasets that have
// no record (Admin). Cleaner removes what is left of moves, operations and other homes. Keeper notices a pool whose
// disk was restored from an older state, and AcceptPool lets it serve again. Locks of host.Host.Locks serialize the
// requests (lockPools, Admin.lockPool). The pools and their records belong to package pool.
package pooladmin

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/controlsync"
)

// Admin does what an operator asks for the pools of this node. Its methods are safe for concurrent use.
type Admin struct {
	*controlsync.Sync
	Generations *Keeper
	Cleaner     *Cleaner
}

// New returns the Admin of a host.
func New(s *controlsync.Sync) *Admin {
	a := &Admin{Sync: s}
	a.Generations = &Keeper{Admin: a, asked: map[int]bool{}}
	a.Cleaner = &Cleaner{Admin: a, lost: map[uuid.UUID]bool{}}
	return a
}
