package agent

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/replication"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// What comes file by file makes the dataset anew. Where a copy of it lies, which may be all that
// is left of the volume if its home is lost meanwhile, it is made beside it: as an incoming
// dataset that no record has. Once it is whole and verified that stands in the record of the
// pull, which keeps it over a crash; before that the next start reaps it. In a pool that keeps
// copies it takes the copy's place when control has on record that the home is here: nothing
// opens a copy, so the old state is not taken for the new one meanwhile. In others, which have
// the old state as it was left, it does so just before, and is the copy if that is refused.

// replaces reports whether a copy lies where a dataset is to come that has something of it, and
// is on record: of what an earlier try has left the home has all. The dataset's lock is held.
func (m *moving) replaces(ctx context.Context) (bool, error) {
	if _, kept := m.a.Cache.Copy(m.op.DatasetID); !kept {
		return false, nil
	}
	e, err := m.pool.Stat(ctx, m.op.DatasetID)
	if errors.Is(err, dataset.ErrNotFound) {
		return false, nil
	}
	return e.State == backends.EntryReady || e.State == backends.EntryCopy && len(e.Snapshots) > 0, err
}

// recordOf is the record of this pull, with what has come of it beside a copy.
func (m *moving) recordOf(snapshot uuid.UUID) replication.MoveRecord {
	op := m.op
	rec := replication.MoveRecord{Move: op.ID, Pool: op.Dataset.Pool, Epoch: op.Dataset.Epoch, Files: op.Files, Share: op.Share, From: m.given, Since: m.a.Clock.Now(), Snapshot: snapshot}
	if was, _ := m.a.moveTable.Get(op.DatasetID); was.Move == op.ID {
		rec.Beside = was.Beside
	}
	return rec
}

// takePlace makes a dataset what came beside its copy. Its lock is held.
func (a *Agent) takePlace(ctx context.Context, pool backends.Pool, d dataset.Dataset, beside uuid.UUID) error {
	if _, err := pool.Stat(ctx, beside); err != nil { // before anything goes
		return err
	}
	if err := pool.Delete(ctx, d.ID); err != nil {
		return err
	}
	d.Size = 0 // what it was made with
	_, err := pool.Clone(ctx, d, dataset.Source{Dataset: beside}, nil)
	return err
}

// takePlaceAtHome does so where that waited for the record, if it was not done.
func (a *Agent) takePlaceAtHome(ctx context.Context, pool backends.Pool, d dataset.Dataset, beside uuid.UUID) error {
	e, err := pool.Stat(ctx, d.ID)
	if err == nil && e.State != backends.EntryCopy {
		return nil // it may have been written to since
	}
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	return a.takePlace(ctx, pool, d, beside)
}

// keepPlace has what has taken a copy's place be the copy, where control did not put on record that
// the home is here: there is no other any more, and all of it was verified. Its lock is held.
func (a *Agent) keepPlace(ctx context.Context, pool backends.Pool, d dataset.Dataset, p replication.MoveRecord) error {
	if err := pool.WriteRecord(ctx, d, true); err != nil { // which said that its home is here
		return err
	}
	if err := pool.Commit(ctx, d.ID); err != nil {
		return err
	}
	return a.dropBeside(ctx, p)
}

// dropBeside destroys what a move brought beside a copy: it has taken its place, or came in vain.
func (a *Agent) dropBeside(ctx context.Context, p replication.MoveRecord) error {
	if p.Beside == uuid.Nil {
		return nil
	}
	pool, err := a.pools.Online(ctx, p.Pool)
	if err != nil {
		return err
	}
	return pool.Delete(ctx, p.Beside)
}
