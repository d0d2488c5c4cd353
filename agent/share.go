package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/agent/replication"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
)

// shares reports whether a volume is on a share on which this node has a pool. If control does not answer, it
// returns false.
func (a *Agent) shares(ctx context.Context, d dataset.Dataset) bool {
	list, err := a.Control.Pools(ctx)
	if err != nil {
		return false
	}
	i := slices.IndexFunc(list, func(p api.Pool) bool { return p.ID == d.Pool })
	return i >= 0 && list[i].Share != uuid.Nil && slices.ContainsFunc(list, func(p api.Pool) bool {
		return p.Node == a.NodeID && p.Share == list[i].Share
	})
}

// shared fails unless this node finds the dataset on the share that both pools are recorded to be on: once the
// move is recorded, the dataset could not be taken otherwise. If a lost home had not taken the dataset yet, it is
// taken from the pool from which that home would have taken it.
func (m *moving) shared(ctx context.Context) error {
	sharer, can := m.pool.(backends.Sharer)
	if !can {
		return dataset.Errorf(dataset.ErrUnsupported, "move of volume %s: pool %s is on no share", m.op.Volume,
			m.a.pools.Name(m.op.Dataset.Pool))
	}
	m.op.Dataset.Taken = &dataset.Taken{From: m.given, Epoch: m.op.Epoch}
	err := sharer.Sees(ctx, m.op.DatasetID, m.given)
	if errors.Is(err, dataset.ErrNotFound) && m.before != nil &&
		sharer.Sees(ctx, m.op.DatasetID, m.before.From) == nil {
		m.a.LogOf(*m.op.Dataset).WithField("from",
			m.before.From).Warn("its home had not taken it yet: it is taken from the pool of the home before")
		m.given, m.op.Dataset.Taken = m.before.From, m.before
		return nil
	}
	if errors.Is(err, dataset.ErrNotFound) {
		return dataset.Errorf(dataset.ErrOffline,
			"move of volume %s: what node %s has mounted is not the share that it lies on: %w (mount the "+
				"same one there)", m.op.Volume, m.a.NodeName, err)
	}
	return err
}

// onShare finds the pool on the share in which the home has the dataset. What other pools have of it is from
// earlier homes, which left it when the dataset left the share.
func (m *moving) onShare(ctx context.Context) error {
	v, err := host.UntilAnswered(ctx, m.a.Host,
		func() (api.Volume, error) { return m.a.Control.Volume(ctx, m.op.DatasetID.String()) })
	if err == nil && v.Home != m.op.From {
		err = dataset.Errorf(dataset.ErrConflict, "its home is not node %s any more", operation.ShortID(m.op.From))
	}
	if err != nil {
		return fmt.Errorf("move of volume %s: %w", m.op.Volume, err)
	}
	if m.given = v.Pool; m.op.Loss != nil {
		m.before = v.Taken
	}
	return nil
}

// clear destroys what an earlier home left of a dataset in the pool that is to take it, as a move
// file by file does: before it is on record that the home is here, as it is older. Its lock is held.
func (m *moving) clear(ctx context.Context) error {
	here := m.given == m.op.Dataset.Pool
	if here && (m.before == nil || m.before.From != m.given) {
		return dataset.Errorf(dataset.ErrConflict,
			"pool %s is the very pool that it lies in (drover store rebuild here makes this node its home)",
			m.a.pools.Name(m.given))
	}
	e, err := m.pool.Stat(ctx, m.op.DatasetID)
	switch {
	case errors.Is(err, dataset.ErrNotFound) && !here:
		err = nil // or it is not whole, which would be in the way
	case err == nil && here && (e.Record == nil || e.Record.Epoch < m.before.Epoch):
		err = dataset.Errorf(dataset.ErrConflict, "it is older than what the home before had")
	case err == nil && !here && (e.Record == nil || e.Record.Epoch > m.op.Epoch):
		err = dataset.Errorf(dataset.ErrConflict, "it may be newer than what its home gave up")
	}
	if err != nil {
		return fmt.Errorf("what lies in pool %s of it (%s): %w", m.a.pools.Name(m.op.Dataset.Pool), e.Path, err)
	}
	if here { // all there is of it: no home has taken it since
		return nil
	}
	return m.pool.Delete(ctx, m.op.DatasetID)
}

// written flushes everything that was written to a dataset on its share, where the next home finds it.
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

// goesOnElsewhere reports whether a dataset in a pool on a share may be a volume that continues on another node,
// which has not taken it yet, because its home was passed over. An incomplete dataset is not one: it is from a
// move file by file that was interrupted.
func (a *Agent) goesOnElsewhere(ctx context.Context, p *pool.Pool, id uuid.UUID, torn map[uuid.UUID]bool) bool {
	return p.Share != uuid.Nil && !torn[id] && a.datasets.EnsureUnrecorded(ctx, id) != nil
}

// torn returns the incoming datasets in a pool on a share that are incomplete.
func (a *Agent) torn(ctx context.Context, p *pool.Pool) (map[uuid.UUID]bool, error) {
	if p.Share == uuid.Nil {
		return nil, nil
	}
	list, err := p.Storage.List(ctx)
	if err != nil {
		return nil, err
	}
	torn := map[uuid.UUID]bool{}
	for _, e := range list {
		if e.State == backends.EntryIncoming {
			_, err := p.Storage.Stat(ctx, e.ID)
			torn[e.ID] = errors.Is(err, dataset.ErrNotFound)
		}
	}
	return torn, nil
}

// takeAgain starts again to take the datasets whose home is this node from where they are on their share, if the
// record of that was lost.
func (a *Agent) takeAgain(ctx context.Context) {
	for _, id := range a.Cache.IDs() {
		d, home := a.Cache.Dataset(id)
		if _, comes := a.moveTable.Get(id); !home || comes || d.Taken == nil || d.State == dataset.StatePurging ||
			a.moveTable.IsActive(id) {
			continue
		}
		pool, err := a.pools.Online(ctx, d.Pool)
		if err != nil {
			continue // its volumes are offline as well
		}
		if _, err := pool.Stat(ctx, id); errors.Is(err, dataset.ErrNotFound) {
			err = a.moveTable.Set(ctx, id, replication.MoveRecord{
				Pool:  d.Pool,
				Epoch: d.Epoch,
				Share: true,
				From:  d.Taken.From,
				Since: a.Clock.Now(),
			})
			if err != nil {
				a.LogOf(d).WithError(err).Error("it is not taken from where it lies on its share")
			}
		}
	}
}
