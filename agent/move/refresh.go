package move

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Refresh fetches the data that a replica lacks. It also removes the snapshots that the home no longer has. The base
// of the next difference stays until that difference has arrived.
func (p *Replicas) Refresh(ctx context.Context, jb *host.Job, id uuid.UUID) error {
	k, kept := p.Cache.Copy(id)
	if !kept || k.Kind != dataset.CopyReplica || k.Record == nil || k.Record.State != dataset.StateReady ||
		p.MoveTable.IsActive(id) || p.Trust.Err() != nil || p.Leases.Peers == nil {
		return nil
	}
	d := *k.Record
	home, err := p.Leases.Nodes.Peer(ctx, d.Home)
	if err != nil {
		return err
	}
	pool, err := p.Pools.Online(ctx, k.Pool)
	if err != nil {
		return fmt.Errorf("replica of volume %s: %w", d.Volume, err)
	}
	if err := p.Copies.Reconcile(ctx, id); err != nil { // this node may have been the home until just now
		return err
	}
	if keep, err := host.UnrecordedLoss(ctx, pool, k); err != nil || keep.ID != uuid.Nil {
		return err // once control records the lost data, this copy is not a replica any more
	}
	if err := p.readState(ctx, pool, k); err != nil {
		return err
	}
	if err := p.Pools.CheckRootSpace(ctx); err != nil {
		return fmt.Errorf("replica of volume %s: %w", d.Volume, err)
	}
	jb.Step("refreshing the replica of volume " + d.Volume)
	checked, peer := p.Clock.Now().UTC().Round(0), "https://"+home.Address
	have, err := host.SnapshotIDs(ctx, pool, id)
	if err != nil {
		return err
	}
	s, err := p.TransferClient.RequestSnapshot(ctx, peer, id, have)
	if errors.Is(err, dataset.ErrNotFound) || errors.Is(err, dataset.ErrForbidden) {
		return errors.Join(err, p.reload(ctx, k)) // the home may be another node now
	}
	if err != nil {
		return fmt.Errorf("from its home, node %s: %w", home.Name, err)
	}
	p.noteAnswer(id)
	if s.Epoch > d.Epoch { // this node's record does not list the losses of the later epoch yet
		return p.reload(ctx, k)
	}
	unlock, err := p.Locks.Lock(ctx, id, "refresh of the replica of volume "+d.Volume)
	if err != nil {
		return err
	}
	defer unlock()
	if now, kept := p.Cache.Copy(id); !kept || now.Kind != dataset.CopyReplica || p.MoveTable.IsActive(id) {
		return nil
	}
	got, err := p.TransferClient.Pull(ctx, Pull{
		Peer: peer, Dataset: d, Into: pool, Want: s.ID, Shared: true, Progress: jb.SetProgress,
	})
	if err != nil {
		return fmt.Errorf("from its home, node %s: %w", home.Name, err)
	}
	if was, known := p.Copy(id); !known || was.Snapshot != s.ID {
		p.Pools.MarkUsed(k.Pool)
	}
	if err := host.DropMissing(ctx, pool, id, got.Gone, s.Snapshot); err != nil {
		return fmt.Errorf("replica of volume %s, of node %s: %w", d.Volume, home.Name, err)
	}
	p.updateNames(ctx, pool, id)
	c := k.Copy
	c.Epoch, c.Snapshot, c.Taken, c.OrderTime = s.Epoch, s.ID, s.Created, s.OrderTime
	c.VerifiedAt, c.VerifiedAtHome = checked, s.Current
	return p.update(ctx, c)
}

// updateNames writes the names of a renamed volume to the record beside its replica. That record is otherwise of the
// state that was copied. A store that is rebuilt from the replica has these names. A failure is only logged, because
// the data of the replica is up to date, and the next refresh tries again. The dataset's lock is held.
func (p *Replicas) updateNames(ctx context.Context, pool backends.Pool, id uuid.UUID) {
	k, _ := p.Cache.Copy(id)
	e, err := pool.Stat(ctx, id)
	if err == nil && k.Record != nil && e.Record != nil && !slices.Equal(e.Record.Names(), k.Record.Names()) {
		d := *e.Record
		d.Volume = k.Record.Volume
		d.Aliases = k.Record.Aliases
		err = pool.WriteRecord(context.WithoutCancel(ctx), d, false)
	}
	if err != nil {
		p.Log.WithError(err).WithField("dataset", id).Warn(
			"cannot write the new name of a volume beside its replica")
	}
}

// update records the state of a replica, and reports it.
func (p *Replicas) update(ctx context.Context, c dataset.Copy) error {
	p.mu.Lock()
	r := p.byDataset[c.Dataset]
	r.copy = c
	was := r.reported
	p.mu.Unlock()
	p.News.Changed(c.Dataset)
	if !c.MustRecord(was) {
		return nil
	}
	if err := p.Copies.Report(ctx, api.CopyReport{Copy: c}); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r.reported = c
	return nil
}

// readState reads the state of a replica from its pool after a start. If the home is lost, control must know which copy
// is the newest.
func (p *Replicas) readState(ctx context.Context, pool backends.Pool, k api.AssignedCopy) error {
	if _, known := p.Copy(k.Dataset); known {
		return nil
	}
	if k.Snapshot == uuid.Nil {
		// Do not report the data as a copy. A move left it here, and the home has no record of it, so the home would
		// not ask this node for a promise. The next refresh turns the data into a copy.
		return nil
	}
	e, err := pool.Stat(ctx, k.Dataset)
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	s, found := host.Promotable(e)
	if !found {
		return nil
	}
	c := k.Copy
	if c.Snapshot != s.ID {
		c.Epoch, c.Snapshot, c.Taken, c.OrderTime, c.VerifiedAtHome = s.Epoch, s.ID, s.Created, s.OrderTime, s.Created
	}
	return p.update(ctx, c)
}

// reload reads the record of a replicated dataset from control again.
func (p *Replicas) reload(ctx context.Context, k api.AssignedCopy) error {
	v, err := p.Control.Volume(ctx, k.Dataset.String())
	if errors.Is(err, dataset.ErrNotFound) {
		return nil // the next sync says what happens to the replica
	}
	if err != nil {
		return err
	}
	k.Record = &v.Dataset
	return p.Copies.Apply(ctx, k)
}
