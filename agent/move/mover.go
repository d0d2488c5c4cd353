package move

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// MoverDeps are the dependencies of Mover.
type MoverDeps struct {
	*host.Host
	Pools          *pool.Pools
	Space          *pool.Space
	Keys           *operation.Keyring
	Nodes          *lease.Nodes
	Keeper         *lease.Keeper
	Programs       *host.Programs
	Moves          *MoveTable
	Copies         *Copies
	Installer      *Installer
	Datasets       *operation.Operations
	TransferClient *Client
	PeerHTTP       http.RoundTripper // to the agents of other nodes; nil if there are none
	// Session returns when control was last notified that this agent runs: see lease.Deadlines.Session.
	Session func() (renewed, ttl time.Duration)
}

// Mover executes moves to this node. Its methods are safe for concurrent use.
type Mover struct {
	MoverDeps

	mu   sync.Mutex
	rate int64 // see Rate
}

// NewMover returns a Mover.
func NewMover(deps MoverDeps) *Mover { return &Mover{MoverDeps: deps} }

// Rate returns the rate in bytes a second of the last copy to this node that was large enough to be measured, or 0 if
// there was none.
func (v *Mover) Rate() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rate
}

// Move makes this node the home of a dataset whose home is another node. After a crash Move starts again: copied data
// is kept, and each step is idempotent.
func (v *Mover) Move(ctx context.Context, jb *host.Job, op *dataset.Operation) (out api.Committed, err error) {
	pool, err := v.Pools.Online(ctx, op.DatasetRecord.Pool)
	if err != nil {
		return out, fmt.Errorf("move of volume %s: %w", op.Volume, err)
	}
	if err := v.Space.CheckRootSpace(ctx); err != nil {
		return out, fmt.Errorf("move of volume %s: %w", op.Volume, err)
	}
	if err := v.Keys.CanOpen(ctx, *op.DatasetRecord); err != nil {
		return out, fmt.Errorf("move of volume %s: %w", op.Volume, err)
	}
	if op.FileCopy || op.SameShare {
		// Both kinds remove data here. A former head may have data that no snapshot has, so reconcile it first.
		if err := v.Copies.Reconcile(ctx, op.DatasetID); err != nil {
			return out, fmt.Errorf("move of volume %s: %w", op.Volume, err)
		}
	}
	if err := v.CheckSuperseded(ctx, pool, op); err != nil {
		return out, err
	}
	m := &moveRun{Mover: v, jb: jb, op: op, pool: pool}
	defer v.Moves.Begin(op.DatasetID)()
	if op.SameShare {
		if err := m.findGivingPool(ctx); err != nil {
			return out, err
		}
	}
	if op.Loss != nil {
		if err := m.blockPromises(ctx); err != nil {
			return out, err
		}
		if err := m.fence(ctx); err != nil {
			return out, err
		}
		return m.promote(ctx)
	}
	if m.home, err = v.Nodes.Peer(ctx, op.OtherNode); err != nil {
		return out, fmt.Errorf("move of volume %s: %w", op.Volume, err)
	}
	steps.At("move.begin")
	if was, _ := v.Moves.Get(op.DatasetID); was.Move != op.ID {
		if err := v.Installer.DropBeside(ctx, was); err != nil {
			return out, fmt.Errorf("move of volume %s: data of another move: %w", op.Volume, err)
		}
	}
	if err := v.Moves.Set(ctx, op.DatasetID, m.recordOf(uuid.Nil)); err != nil {
		return out, err
	}
	if err := m.copyInUse(ctx); err != nil {
		return out, err
	}
	if err := m.removeSnapshotsMeanwhile(ctx, m.recall); err != nil {
		return out, err
	}
	if err := m.copyRest(ctx); err != nil {
		return out, err
	}
	if err := m.removeSnapshots(ctx); err != nil {
		return out, err
	}
	return m.promote(ctx)
}

// CheckSuperseded refuses a move to a node that has data which the volume lacks, because the move would remove that
// data.
func (v *Mover) CheckSuperseded(ctx context.Context, pool backends.Pool, op *dataset.Operation) error {
	k, kept := v.Cache.Copy(op.DatasetID)
	if !kept {
		return nil
	}
	superseded := k.Kind == dataset.CopySuperseded
	if !superseded && op.Loss == nil {
		k.Record = op.DatasetRecord
		keep, err := host.UnrecordedLoss(ctx, pool, k)
		if err != nil {
			return fmt.Errorf("move of volume %s: %w", op.Volume, err)
		}
		superseded = keep.ID != uuid.Nil
	}
	if op.FileCopy && !superseded { // a superseded head may be here that control does not know yet
		e, err := pool.Stat(ctx, op.DatasetID)
		if err != nil && !errors.Is(err, dataset.ErrNotFound) {
			return fmt.Errorf("move of volume %s: %w", op.Volume, err)
		}
		_, superseded = host.Newest(e, func(s dataset.Snapshot) bool { return s.Kind == dataset.SnapshotSuperseded })
	}
	if superseded {
		return dataset.Errorf(dataset.ErrConflict,
			"move of volume %s: node %s has a superseded copy of it (drover copy ls; discard it "+
				"first)", op.Volume, v.NodeName)
	}
	return nil
}
