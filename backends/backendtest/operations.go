package backendtest

import (
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// operation is a call of a pool on the dataset of a trial.
type operation struct {
	name    string
	keeps   dataset.SnapshotKind // of the trial's snapshot; "": manual
	delta   bool                 // of a pool that keeps copies
	shares  bool                 // of a pool that several hosts use
	apart   bool                 // it needs no existing dataset
	prepare func(*trial)         // the operations before it
	call    func(*trial) error
	// done returns a world after the operation.
	done func(*trial) func(world) []world
	// between are worlds that there may be while it is not done; nil: none but those before and after.
	between func(*trial, world) []world
}

// only is done where there is one world after.
func only(change func(t *trial, w world) world) func(*trial) func(world) []world {
	return func(t *trial) func(world) []world {
		return func(w world) []world { return []world{change(t, w)} }
	}
}

func same(_ *trial, w world) world { return w }

// operations are those that fail.
func operations() []operation {
	copied := func(t *trial) {
		t.ok(t.copier().Supersede(t.ctx, t.d.ID, t.keep))
		t.becomes(func(w world) world { return w.with(t.keep, w.head).as(backends.EntryCopy) })
		t.keep = t.snapshot(t.d)
	}
	return []operation{
		{name: "create", apart: true, call: func(t *trial) error {
			_, err := t.pool.Create(t.ctx, t.clone)
			return err
		}, done: only(same)},
		{name: "clone", call: func(t *trial) error {
			_, err := t.pool.Clone(t.ctx, t.clone, t.source(t.old), nil)
			return err
		}, done: only(same)},
		{name: "clone the head", apart: true, call: func(t *trial) error {
			_, err := t.pool.Clone(t.ctx, t.clone, dataset.Source{Dataset: t.d.ID}, nil)
			return err
		}, done: only(same)},
		{name: "commit", apart: true, prepare: func(t *trial) {
			_, err := t.pool.Create(t.ctx, t.clone)
			t.ok(err)
		}, call: func(t *trial) error { return t.pool.Commit(t.ctx, t.clone.ID) }, done: only(same)},
		{
			name:  "record",
			apart: true,
			call:  func(t *trial) error { return t.pool.WriteRecord(t.ctx, t.d, true) },
			done:  only(same),
		},
		{name: "snapshot", call: func(t *trial) error { return t.pool.Snapshot(t.ctx, t.keep, nil) },
			done: only(func(t *trial, w world) world { return w.with(t.keep, w.head) })},
		{name: "delete a snapshot", call: func(
			t *trial) error {
			return t.pool.DeleteSnapshot(t.ctx, t.d.ID, t.old.ID)
		},
			done: only(func(t *trial, w world) world { return w.without(t.old) })},
		{name: "restore", keeps: dataset.SnapshotRestore, call: func(t *trial) error {
			return t.pool.Restore(t.ctx, t.d.ID, t.old.ID, t.keep, nil)
		}, done: only(restoredTo(first))},
		{name: "restore apart", keeps: dataset.SnapshotRestore, shares: true, call: func(t *trial) error {
			return t.pool.(backends.Sharer).RestoreApart(t.ctx, t.d.ID, t.old.ID, t.keep, nil)
		}, done: only(restoredTo(first))},
		{name: "delete", call: func(t *trial) error { return t.pool.Delete(t.ctx, t.d.ID) },
			done: only(func(*trial, world) world { return world{} })},
		{name: "supersede", keeps: dataset.SnapshotSuperseded, delta: true, call: func(t *trial) error {
			return t.copier().Supersede(t.ctx, t.d.ID, t.keep)
		}, done: only(superseded),
			between: func(t *trial, w world) []world {
				unlisted := w.as(backends.EntryCopy)
				unlisted.coming = w.with(t.keep, w.head).without(t.old).without(t.mid).has
				return []world{unlisted, w.with(t.keep, w.head)}
			}},
		{name: "demote", keeps: dataset.SnapshotTransfer, delta: true, prepare: func(t *trial) {
			t.ok(t.pool.Snapshot(t.ctx, t.keep, nil))
			t.becomes(func(w world) world { return w.with(t.keep, w.head) })
		}, call: func(t *trial) error { return t.copier().Demote(t.ctx, t.d.ID, t.keep.ID) },
			done: only(func(_ *trial, w world) world { return w.as(backends.EntryCopy) })},
		{name: "promote", keeps: dataset.SnapshotSuperseded, delta: true, prepare: copied,
			call: func(t *trial) error { return t.copier().Promote(t.ctx, t.d.ID, t.old.ID) }, done: only(same)},
		{name: "commit a copy", keeps: dataset.SnapshotSuperseded, delta: true, prepare: func(t *trial) {
			copied(t)
			t.ok(t.copier().Promote(t.ctx, t.d.ID, t.old.ID))
		}, call: func(t *trial) error { return t.pool.Commit(t.ctx, t.d.ID) },
			done: only(func(_ *trial, w world) world { return w.as(backends.EntryReady).headed(first) })},
	}
}

// restoredTo returns a world after a restore.
func restoredTo(content string) func(t *trial, w world) world {
	return func(t *trial, w world) world { return w.with(t.keep, w.head).headed(content) }
}

// superseded returns a world after its head was kept as a snapshot of a copy.
func superseded(t *trial, w world) world {
	return w.with(t.keep, w.head).as(backends.EntryCopy)
}

// again is the name of the follower that is the operation itself.
const again = "the same again"

// followers are the operations that come after one that failed. Each makes the dataset a home first, and
// makes snapshots of its own.
func followers() []operation {
	return []operation{
		{name: "restore of another", call: func(t *trial) error {
			t.home(dataset.SnapshotRestore)
			return t.pool.Restore(t.ctx, t.d.ID, t.mid.ID, t.keep, nil)
		}, done: only(restoredTo(second))},
		{name: "snapshot", call: func(t *trial) error {
			t.home(dataset.SnapshotManual)
			return t.pool.Snapshot(t.ctx, t.keep, nil)
		}, done: only(func(t *trial, w world) world { return w.with(t.keep, w.head) })},
		{name: again},
		{name: "removal of what it kept, and restore", call: func(t *trial) error {
			t.ok(t.pool.DeleteSnapshot(t.ctx, t.d.ID, t.keep.ID))
			t.becomes(func(w world) world { return w.without(t.keep) })
			t.home(dataset.SnapshotRestore)
			return t.pool.Restore(t.ctx, t.d.ID, t.mid.ID, t.keep, nil)
		}, done: only(restoredTo(second))},
		{name: "supersede", delta: true, call: func(t *trial) error {
			t.home(dataset.SnapshotSuperseded)
			t.ok(t.copier().Supersede(t.ctx, t.d.ID, t.keep))
			t.becomes(func(w world) world { return superseded(t, w) })
			t.home(dataset.SnapshotManual)
			return nil
		}, done: only(same)},
		{name: "demote", delta: true, call: func(t *trial) error {
			t.home(dataset.SnapshotTransfer)
			t.ok(t.pool.Snapshot(t.ctx, t.keep, nil))
			t.becomes(func(w world) world { return w.with(t.keep, w.head) })
			t.ok(t.copier().Demote(t.ctx, t.d.ID, t.keep.ID))
			t.becomes(func(w world) world { return w.as(backends.EntryCopy) })
			t.home(dataset.SnapshotManual)
			return nil
		}, done: only(same)},
	}
}

// home makes a copy a home, from the second snapshot. From here on the trial's snapshot is a different one,
// of that kind.
func (t *trial) home(kind dataset.SnapshotKind) {
	t.Helper()
	t.keep = t.snapshot(t.d)
	t.keep.Kind = kind
	if t.state() != backends.EntryCopy {
		return
	}
	t.ok(t.copier().Promote(t.ctx, t.d.ID, t.mid.ID))
	t.ok(t.pool.Commit(t.ctx, t.d.ID))
	t.becomes(func(w world) world {
		if w.state != backends.EntryCopy {
			return w
		}
		for id, content := range w.coming {
			w = w.with(dataset.Snapshot{ID: id}, content)
		}
		return w.as(backends.EntryReady).headed(second)
	})
}
