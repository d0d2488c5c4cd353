package backendtest

import (
	"errors"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// operation is a call of a pool on the dataset of a trial.
type operation struct {
	name   string
	keeps  dataset.SnapshotKind // of the trial's snapshot; "": manual
	delta  bool                 // needs a pool that keeps copies
	shares bool                 // needs a pool that several hosts use
	apart  bool                 // the operation needs no existing dataset
	// For the crash matrix:
	grows    bool // needs a pool that enforces sizes; with each filesystem
	resizes  bool // the dataset itself
	rewrites bool // needs a pool that rewrites heads
	receives bool // snapshots of another pool
	removes  bool
	demotes  bool // a head that must not be mounted before
	noSteps  bool // it has no steps on some backends

	prepare func(*trial) // the operations before it
	call    func(*trial) error
	// done returns a world after the operation is done.
	done func(*trial) func(world) []world
	// between returns the worlds in which the operation is half done. If nil, only those before and after are possible.
	between func(*trial, world) []world
	// check checks more than the worlds after a crash, and after the operation.
	check func(t *trial, s *crashed, done bool)
	// then is called after the operation. If instead is set, it is called after a crash instead of a repetition of the
	// operation.
	then, instead func(*trial)
}

// only makes a done function for an operation with one possible result.
func only(change func(t *trial, w world) world) func(*trial) func(world) []world {
	return func(t *trial) func(world) []world {
		return func(w world) []world { return []world{change(t, w)} }
	}
}

func same(_ *trial, w world) world { return w }

// operations returns the operations into which failures are injected.
func operations() []operation {
	copied := func(t *trial) {
		t.OK(t.Copier().Supersede(t.Ctx, t.d.ID, t.keep))
		t.becomes(func(w world) world { return w.with(t.keep, w.head).as(backends.EntryCopy) })
		t.keep = t.NewSnapshot(t.d)
	}
	return []operation{
		{name: "create", apart: true, prepare: (*trial).giveOwner, call: func(t *trial) error {
			_, err := t.Pool.Create(t.Ctx, t.clone)
			return err
		}, done: only(same), check: checkMade("")},
		{name: "clone", call: func(t *trial) error {
			_, err := t.Pool.Clone(t.Ctx, t.clone, t.Source(t.old), nil)
			return err
		}, done: only(same), check: checkMade(first)},
		{name: "clone the head", apart: true, call: func(t *trial) error {
			_, err := t.Pool.Clone(t.Ctx, t.clone, dataset.Source{Dataset: t.d.ID}, nil)
			return err
		}, done: only(same), check: checkMade(third)},
		{name: "commit", apart: true, noSteps: true, prepare: func(t *trial) {
			_, err := t.Pool.Create(t.Ctx, t.clone)
			t.OK(err)
		}, call: func(t *trial) error { return t.Pool.Commit(t.Ctx, t.clone.ID) }, done: only(same),
			check: checkMade("")},
		{
			name:    "record",
			apart:   true,
			noSteps: true,
			call:    func(t *trial) error { return t.Pool.WriteRecord(t.Ctx, t.d, true) },
			done:    only(same),
		},
		{name: "snapshot", call: func(t *trial) error { return t.Pool.Snapshot(t.Ctx, t.keep, nil) },
			done: only(func(t *trial, w world) world { return w.with(t.keep, w.head) })},
		{name: "delete a snapshot", removes: true, call: func(
			t *trial) error {
			return t.Pool.DeleteSnapshot(t.Ctx, t.d.ID, t.old.ID)
		},
			done: only(func(t *trial, w world) world { return w.without(t.old) })},
		{name: "restore", keeps: dataset.SnapshotRestore, call: func(t *trial) error {
			return t.Pool.Restore(t.Ctx, t.d.ID, t.old.ID, t.keep, nil)
		}, done: only(restoredTo(first))},
		{name: "restore with a copy", keeps: dataset.SnapshotRestore, shares: true, call: func(t *trial) error {
			return t.Pool.(copyRestorer).RestoreByCopy(t.Ctx, t.d.ID, t.old.ID, t.keep, nil)
		}, done: only(restoredTo(first))},
		{name: "delete", removes: true, call: func(t *trial) error { return t.Pool.Delete(t.Ctx, t.d.ID) },
			done: only(func(*trial, world) world { return world{} })},
		{name: "supersede", keeps: dataset.SnapshotSuperseded, delta: true, demotes: true, call: func(t *trial) error {
			return t.Copier().Supersede(t.Ctx, t.d.ID, t.keep)
		}, done: only(superseded),
			between: func(t *trial, w world) []world {
				unlisted := w.as(backends.EntryCopy)
				unlisted.pending = w.with(t.keep, w.head).without(t.old).without(t.mid).has
				return []world{unlisted, w.with(t.keep, w.head)}
			}},
		{name: "demote", keeps: dataset.SnapshotTransfer, delta: true, demotes: true, prepare: func(t *trial) {
			t.OK(t.Pool.Snapshot(t.Ctx, t.keep, nil))
			t.becomes(func(w world) world { return w.with(t.keep, w.head) })
		}, call: func(t *trial) error { return t.Copier().Demote(t.Ctx, t.d.ID, t.keep.ID) },
			done:    only(func(_ *trial, w world) world { return w.as(backends.EntryCopy) }),
			instead: func(t *trial) { t.promoted(t.keep, third) }},
		{name: "promote", keeps: dataset.SnapshotSuperseded, delta: true, prepare: copied,
			call: func(t *trial) error { return t.Copier().Promote(t.Ctx, t.d.ID, t.old.ID) }, done: only(same)},
		{name: "commit a copy", keeps: dataset.SnapshotSuperseded, delta: true, prepare: func(t *trial) {
			copied(t)
			t.OK(t.Copier().Promote(t.Ctx, t.d.ID, t.old.ID))
		}, noSteps: true, call: func(t *trial) error { return t.Pool.Commit(t.Ctx, t.d.ID) },
			done: only(func(_ *trial, w world) world { return w.as(backends.EntryReady).headed(first) })},
	}
}

// crashOperations returns the operations of the crash matrix.
func crashOperations() []operation {
	return append(operations(), []operation{
		{name: "clone a larger one", grows: true, prepare: func(t *trial) { t.clone.Size = larger },
			call: func(t *trial) error {
				_, err := t.Pool.Clone(t.Ctx, t.clone, dataset.Source{Dataset: t.d.ID}, nil)
				return err
			}, done: only(same), check: checkMade(third)},
		{name: "resize", grows: true, resizes: true, call: func(t *trial) error {
			return t.Pool.(backends.Resizer).Resize(t.Ctx, t.d.ID, larger, nil)
		}, done: only(same)},
		{name: "rewrite", rewrites: true, noSteps: true, call: func(t *trial) error {
			_, _, err := t.Pool.(backends.Rewriter).Rewrite(t.Ctx, t.d.ID, nil)
			if errors.Is(err, dataset.ErrUnsupported) { // snapshots take the same time anyhow
				return nil
			}
			return err
		}, done: only(same)},
		{name: "snapshot for another node, and attach", keeps: dataset.SnapshotTransfer, call: func(t *trial) error {
			if err := t.Pool.Snapshot(t.Ctx, t.keep, nil); err != nil {
				return err
			}
			att, err := t.Pool.Attach(t.Ctx, t.d.ID, backends.AttachOptions{})
			if err != nil {
				return err
			}
			return att.Release()
		}, done: only(func(t *trial, w world) world { return w.with(t.keep, w.head) }), check: writesApart},
		{name: "delete the source of a clone", prepare: func(t *trial) {
			t.clone = t.fixture.Clone(t.Source(t.old))
		}, call: func(t *trial) error { return t.Pool.Delete(t.Ctx, t.d.ID) },
			done:  only(func(*trial, world) world { return world{} }),
			check: func(t *trial, _ *crashed, _ bool) { t.holds(t.clone.ID, "file", first) }},
		{name: "delete a clone", removes: true, prepare: func(t *trial) {
			_, err := t.Pool.Clone(t.Ctx, t.clone, dataset.Source{Dataset: t.d.ID}, nil)
			t.OK(err)
		}, call: func(t *trial) error { return t.Pool.Delete(t.Ctx, t.clone.ID) }, done: only(same),
			check: func(t *trial, _ *crashed, done bool) {
				if done {
					t.Absent(t.clone.ID)
				}
			}},
		{name: "receive", delta: true, receives: true, call: (*trial).receiveAll, done: only(same), check: isReceived},
		{name: "demote what was restored", keeps: dataset.SnapshotRestore, delta: true, demotes: true, prepare: func(
			t *trial) {
			t.OK(t.Pool.Restore(t.Ctx, t.d.ID, t.old.ID, t.keep, nil))
			t.becomes(func(w world) world { return restoredTo(first)(t, w) })
		}, call: func(t *trial) error { return t.Copier().Demote(t.Ctx, t.d.ID, t.old.ID) },
			done:    only(func(_ *trial, w world) world { return w.as(backends.EntryCopy) }),
			instead: func(t *trial) { t.promoted(t.old, first) }},
		{name: "promote the last", keeps: dataset.SnapshotTransfer, delta: true, prepare: func(t *trial) {
			t.OK(t.Pool.Snapshot(t.Ctx, t.keep, nil))
			t.OK(t.Copier().Demote(t.Ctx, t.d.ID, t.keep.ID))
			t.becomes(func(w world) world { return w.with(t.keep, w.head).as(backends.EntryCopy) })
		}, call: func(t *trial) error { return t.promote(t.keep) },
			done:  only(func(_ *trial, w world) world { return w.as(backends.EntryReady).headed(third) }),
			check: writesApart},
		{name: "promote another", keeps: dataset.SnapshotSuperseded, delta: true, prepare: func(t *trial) {
			t.OK(t.Copier().Supersede(t.Ctx, t.d.ID, t.keep))
			t.becomes(func(w world) world { return superseded(t, w) })
			t.OK(t.Copier().Promote(t.Ctx, t.d.ID, t.old.ID))
		}, call: func(t *trial) error { return t.Copier().Promote(t.Ctx, t.d.ID, t.keep.ID) }, done: only(same),
			then:    func(t *trial) { t.promoted(t.keep, third) },
			instead: func(t *trial) { t.promoted(t.old, first) }},
	}...)
}

// giveOwner sets an owner and a mode for the dataset that will be made.
func (t *trial) giveOwner() {
	mode := uint32(0o750)
	t.clone.Profile.Owner = &dataset.Owner{UID: 999, GID: 998, Mode: &mode}
}

// restoredTo returns a world after a restore.
func restoredTo(content string) func(t *trial, w world) world {
	return func(t *trial, w world) world { return w.with(t.keep, w.head).headed(content) }
}

// superseded returns a world after its head was kept as a snapshot of a copy.
func superseded(t *trial, w world) world {
	return w.with(t.keep, w.head).as(backends.EntryCopy)
}

// again is the name of the follower that repeats the failed operation.
const again = "the same again"

// followers returns the operations that run after a failed one. Each first makes the dataset a home, and then makes its
// own snapshots.
func followers() []operation {
	return []operation{
		{name: "restore of another", call: func(t *trial) error {
			t.home(dataset.SnapshotRestore)
			return t.Pool.Restore(t.Ctx, t.d.ID, t.mid.ID, t.keep, nil)
		}, done: only(restoredTo(second))},
		{name: "snapshot", call: func(t *trial) error {
			t.home(dataset.SnapshotManual)
			return t.Pool.Snapshot(t.Ctx, t.keep, nil)
		}, done: only(func(t *trial, w world) world { return w.with(t.keep, w.head) })},
		{name: again},
		{name: "removal of the kept snapshot, and restore", call: func(t *trial) error {
			t.OK(t.Pool.DeleteSnapshot(t.Ctx, t.d.ID, t.keep.ID))
			t.becomes(func(w world) world { return w.without(t.keep) })
			t.home(dataset.SnapshotRestore)
			return t.Pool.Restore(t.Ctx, t.d.ID, t.mid.ID, t.keep, nil)
		}, done: only(restoredTo(second))},
		{name: "supersede", delta: true, call: func(t *trial) error {
			t.home(dataset.SnapshotSuperseded)
			t.OK(t.Copier().Supersede(t.Ctx, t.d.ID, t.keep))
			t.becomes(func(w world) world { return superseded(t, w) })
			t.home(dataset.SnapshotManual)
			return nil
		}, done: only(same)},
		{name: "demote", delta: true, call: func(t *trial) error {
			t.home(dataset.SnapshotTransfer)
			t.OK(t.Pool.Snapshot(t.Ctx, t.keep, nil))
			t.becomes(func(w world) world { return w.with(t.keep, w.head) })
			t.OK(t.Copier().Demote(t.Ctx, t.d.ID, t.keep.ID))
			t.becomes(func(w world) world { return w.as(backends.EntryCopy) })
			t.home(dataset.SnapshotManual)
			return nil
		}, done: only(same)},
	}
}

// home turns a copy into a dataset with a head, from the second snapshot. It also prepares a new snapshot of this kind
// for the trial.
func (t *trial) home(kind dataset.SnapshotKind) {
	t.Helper()
	t.keep = t.NewSnapshot(t.d)
	t.keep.Kind = kind
	if t.state() != backends.EntryCopy {
		return
	}
	t.OK(t.Copier().Promote(t.Ctx, t.d.ID, t.mid.ID))
	t.OK(t.Pool.Commit(t.Ctx, t.d.ID))
	t.becomes(func(w world) world {
		if w.state != backends.EntryCopy {
			return w
		}
		for id, content := range w.pending {
			w = w.with(dataset.Snapshot{ID: id}, content)
		}
		return w.as(backends.EntryReady).headed(second)
	})
}
