package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/fsctl"
)

// inform takes in what is fixed about a pool that was opened.
func (op *openPool) inform(can dataset.Capabilities, is backends.Info) {
	op.Capabilities, op.Missing, op.Note, op.Share = can, is.Missing, is.Note, is.Share
	if op.Share != uuid.Nil {
		op.Reach = dataset.ReachCluster
	}
}

// sameShare fails when a pool lies on another share than it was made on: its volumes would
// be said to be where other nodes do not find them.
func (op *openPool) sameShare(is backends.Info) error {
	if op.rec.Share == uuid.Nil || op.rec.Share == is.Share {
		return nil
	}
	return dataset.Errorf(dataset.ErrOffline, "what is mounted at %s says that it is share %s, and the pool was made on share %s (mount that one, or bring its share.json back)", is.Path, is.Share, op.rec.Share)
}

// shares reports whether a volume lies on a share of which this node has a pool. Control that
// does not say is taken for no.
func (a *Agent) shares(ctx context.Context, d dataset.Dataset) bool {
	list, err := a.Control.Pools(ctx)
	if err != nil {
		return false
	}
	i := slices.IndexFunc(list, func(p api.Pool) bool { return p.ID == d.Pool })
	return i >= 0 && list[i].Share != uuid.Nil && slices.ContainsFunc(list, func(p api.Pool) bool {
		return p.Node == a.node && p.Share == list[i].Share
	})
}

// shared fails unless this node sees the dataset on the share that both pools are said to be
// on: once the move is on record it could not be taken.
func (m *moving) shared(ctx context.Context) error {
	sharer, can := m.pool.(backends.Sharer)
	if !can {
		return dataset.Errorf(dataset.ErrUnsupported, "move of volume %s: pool %s is on no share", m.op.Volume, m.a.pools.name(m.op.Dataset.Pool))
	}
	err := sharer.Sees(ctx, m.op.DatasetID, m.given)
	if errors.Is(err, dataset.ErrNotFound) {
		return dataset.Errorf(dataset.ErrOffline, "move of volume %s: what node %s has mounted is not the share that it lies on: %w (mount the same one there)", m.op.Volume, m.a.NodeName, err)
	}
	return err
}

// onShare finds out in which pool on the share the home has the dataset. What other pools have
// of it is of earlier homes, that left it when it went off the share.
func (m *moving) onShare(ctx context.Context) error {
	v, err := patient(ctx, m.a, func() (api.Volume, error) { return m.a.Control.Volume(ctx, m.op.DatasetID.String()) })
	if err == nil && v.Home != m.op.From {
		err = dataset.Errorf(dataset.ErrConflict, "its home is not node %s any more", short(m.op.From))
	}
	if err != nil {
		return fmt.Errorf("move of volume %s: %w", m.op.Volume, err)
	}
	m.given = v.Pool
	return nil
}

// clear destroys what an earlier home left of a dataset in the pool that is to take it, as a move
// file by file does: before it is on record that the home is here, as it is older. Its lock is held.
func (m *moving) clear(ctx context.Context) error {
	if m.given == m.op.Dataset.Pool {
		return dataset.Errorf(dataset.ErrConflict, "pool %s is the very pool that it lies in (drover store rebuild here makes this node its home)", m.a.pools.name(m.given))
	}
	if err := m.shared(ctx); err != nil {
		return err
	}
	e, err := m.pool.Stat(ctx, m.op.DatasetID)
	if errors.Is(err, dataset.ErrNotFound) {
		return nil
	}
	if err == nil && (e.Record == nil || e.Record.Epoch > m.op.Epoch) {
		err = dataset.Errorf(dataset.ErrConflict, "it may be newer than what its home gave up")
	}
	if err != nil {
		return fmt.Errorf("what lies in pool %s of it (%s): %w", m.a.pools.name(m.op.Dataset.Pool), e.Path, err)
	}
	return m.pool.Delete(ctx, m.op.DatasetID)
}

// written has all that was written to a dataset on its share, where who takes it finds it.
func (a *Agent) written(ctx context.Context, pool backends.Pool, d dataset.Dataset) (m dataset.Manifest, err error) {
	e, err := pool.Stat(ctx, d.ID)
	if err != nil {
		return m, err
	}
	dir, err := os.Open(e.Path)
	if err != nil {
		return m, err
	}
	defer dir.Close()
	m.Taken = a.Clock.Now().UTC()
	return m, fsctl.Sync(dir)
}

// goesOnElsewhere reports whether what lies in a pool on a share may be a volume that went on at
// another node, which has not taken it yet: that of a home that was passed over.
func (a *Agent) goesOnElsewhere(ctx context.Context, p *openPool, id uuid.UUID) bool {
	return p.Share != uuid.Nil && a.nobodys(ctx, id) != nil
}

// leaveShare gives up what the guard has of a dataset that lies on a share and went on at
// another node, of which this one keeps nothing: who holds it here is killed, as what they
// write would be written to what is another's now. Its lock is held.
func (a *Agent) leaveShare(ctx context.Context, id uuid.UUID) error {
	epoch, armed := a.bounds.armedAt(id)
	if !armed || a.mistrust() != nil {
		return nil
	}
	now, err := a.fetch(ctx, id)
	if errors.Is(err, dataset.ErrNotFound) {
		return nil
	}
	if err != nil || now.Home == a.node || now.Epoch <= epoch {
		return err
	}
	gone := dataset.Dataset{ID: id, Volume: now.Volume}
	if err := a.supersede(ctx, gone); err != nil {
		return err
	}
	if err := a.unused(gone, "let go of"); err != nil {
		return err
	}
	return errors.Join(a.drop(ctx, id), a.removeMountpoint(a.mountPath(id)))
}
