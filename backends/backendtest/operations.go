package backendtest

import (
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// operation is a call of a pool on the dataset of a trial.
type operation struct {
	name        string
	keepKind    dataset.SnapshotKind // kind of trial.keep; "" means manual
	needsCopies bool                 // needs a pool that keeps copies
	shares      bool                 // needs RestoreByCopy, and in Failing a pool that several hosts use
	fullOnly    bool                 // Failing skips the operation if it tests only some of the calls
	// For the crash matrix:
	grows    bool // needs a pool that enforces sizes; tested with each filesystem
	resizes  bool // changes the size of the trial's dataset
	receives bool // receives snapshots from another pool
	removes  bool // removes files; PowerCut makes the files durable before
	demotes  bool // demotes the dataset, whose head must not be mounted before
	noSteps  bool // the operation has no steps on some backends

	prepare func(*trial) // makes the state in which the operation is called
	call    func(*trial) error
	// done returns a function from an outcome before the operation to the possible outcomes after it.
	done func(*trial) func(outcome) []outcome
	// between returns the outcomes in which the operation is half done. If nil, only those before and after are
	// possible.
	between func(*trial, outcome) []outcome
	// check checks more than the outcomes. It is called after a crash, and after the operation.
	check func(t *trial, s *crashCase, done bool)
	// If afterSuccess is set, it is called after the operation. If afterCrash is set, it is called after a crash, and
	// the operation is not repeated.
	afterSuccess, afterCrash func(*trial)
}

// oneOutcome makes a done function for an operation with one possible result.
func oneOutcome(change func(t *trial, w outcome) outcome) func(*trial) func(outcome) []outcome {
	return func(t *trial) func(outcome) []outcome {
		return func(w outcome) []outcome { return []outcome{change(t, w)} }
	}
}

func unchanged(_ *trial, w outcome) outcome { return w }

// operations returns the operations into which failures are injected.
func operations() []operation {
	copied := func(t *trial) {
		t.OK(t.Copier().Supersede(t.Ctx, t.d.ID, t.keep))
		t.changeTo(func(w outcome) outcome { return w.with(t.keep, w.head).as(backends.EntryCopy) })
		t.keep = t.NewSnapshot(t.d)
	}
	return []operation{
		{name: "create", fullOnly: true, prepare: (*trial).giveOwner, call: func(t *trial) error {
			_, err := t.Pool.Create(t.Ctx, t.clone)
			return err
		}, done: oneOutcome(unchanged), check: checkMade("")},
		{name: "clone", call: func(t *trial) error {
			_, err := t.Pool.Clone(t.Ctx, t.clone, t.Source(t.old), nil)
			return err
		}, done: oneOutcome(unchanged), check: checkMade(first)},
		{name: "clone the head", fullOnly: true, call: func(t *trial) error {
			_, err := t.Pool.Clone(t.Ctx, t.clone, dataset.Source{Dataset: t.d.ID}, nil)
			return err
		}, done: oneOutcome(unchanged), check: checkMade(third)},
		{name: "commit", fullOnly: true, noSteps: true, prepare: func(t *trial) {
			_, err := t.Pool.Create(t.Ctx, t.clone)
			t.OK(err)
		}, call: func(t *trial) error { return t.Pool.Commit(t.Ctx, t.clone.ID) }, done: oneOutcome(unchanged),
			check: checkMade("")},
		{
			name: "record", fullOnly: true, noSteps: true,
			call: func(t *trial) error { return t.Pool.WriteRecord(t.Ctx, t.d, true) },
			done: oneOutcome(unchanged),
		},
		{name: "snapshot", call: func(t *trial) error { return t.Pool.Snapshot(t.Ctx, t.keep, nil) },
			done: oneOutcome(func(t *trial, w outcome) outcome { return w.with(t.keep, w.head) })},
		{name: "delete a snapshot", removes: true, call: func(
			t *trial) error {
			return t.Pool.DeleteSnapshot(t.Ctx, t.d.ID, t.old.ID)
		},
			done: oneOutcome(func(t *trial, w outcome) outcome { return w.without(t.old) })},
		{name: "restore", keepKind: dataset.SnapshotRestore, call: func(t *trial) error {
			return t.Pool.Restore(t.Ctx, t.d.ID, t.old.ID, t.keep, nil)
		}, done: oneOutcome(afterRestore(first))},
		{name: "restore with a copy", keepKind: dataset.SnapshotRestore, shares: true, call: func(t *trial) error {
			return t.Pool.(copyRestorer).RestoreByCopy(t.Ctx, t.d.ID, t.old.ID, t.keep, nil)
		}, done: oneOutcome(afterRestore(first))},
		{name: "delete", removes: true, call: func(t *trial) error { return t.Pool.Delete(t.Ctx, t.d.ID) },
			done: oneOutcome(func(*trial, outcome) outcome { return outcome{} })},
		{
			name: "supersede", keepKind: dataset.SnapshotSuperseded, needsCopies: true, demotes: true,
			call: func(t *trial) error { return t.Copier().Supersede(t.Ctx, t.d.ID, t.keep) },
			done: oneOutcome(afterSupersede),
			between: func(t *trial, w outcome) []outcome {
				unlisted := w.as(backends.EntryCopy)
				unlisted.pending = w.with(t.keep, w.head).without(t.old).without(t.mid).snapshots
				return []outcome{unlisted, w.with(t.keep, w.head)}
			},
		},
		{name: "demote", keepKind: dataset.SnapshotTransfer, needsCopies: true, demotes: true, prepare: func(t *trial) {
			t.OK(t.Pool.Snapshot(t.Ctx, t.keep, nil))
			t.changeTo(func(w outcome) outcome { return w.with(t.keep, w.head) })
		}, call: func(t *trial) error { return t.Copier().Demote(t.Ctx, t.d.ID, t.keep.ID) },
			done:       oneOutcome(func(_ *trial, w outcome) outcome { return w.as(backends.EntryCopy) }),
			afterCrash: func(t *trial) { t.promoteAndCheck(t.keep, third) }},
		{name: "promote", keepKind: dataset.SnapshotSuperseded, needsCopies: true, prepare: copied,
			call: func(t *trial) error { return t.Copier().Promote(t.Ctx, t.d.ID, t.old.ID) },
			done: oneOutcome(unchanged)},
		{name: "commit a copy", keepKind: dataset.SnapshotSuperseded, needsCopies: true, prepare: func(t *trial) {
			copied(t)
			t.OK(t.Copier().Promote(t.Ctx, t.d.ID, t.old.ID))
		}, noSteps: true, call: func(t *trial) error { return t.Pool.Commit(t.Ctx, t.d.ID) },
			done: oneOutcome(func(_ *trial, w outcome) outcome { return w.as(backends.EntryReady).withHead(first) })},
	}
}

// crashOperations returns the operations of the crash matrix.
func crashOperations() []operation {
	return append(append(operations(), []operation{
		{name: "clone a larger one", grows: true, prepare: func(t *trial) { t.clone.Size = larger },
			call: func(t *trial) error {
				_, err := t.Pool.Clone(t.Ctx, t.clone, dataset.Source{Dataset: t.d.ID}, nil)
				return err
			}, done: oneOutcome(unchanged), check: checkMade(third)},
		{name: "resize", grows: true, resizes: true, call: func(t *trial) error {
			return t.Pool.(backends.Resizer).Resize(t.Ctx, t.d.ID, larger, nil)
		}, done: oneOutcome(unchanged)},
		{name: "snapshot for another node, and attach", keepKind: dataset.SnapshotTransfer, call: func(t *trial) error {
			if err := t.Pool.Snapshot(t.Ctx, t.keep, nil); err != nil {
				return err
			}
			att, err := t.Pool.Attach(t.Ctx, t.d.ID, backends.AttachOptions{})
			if err != nil {
				return err
			}
			return att.Release()
		}, done: oneOutcome(func(t *trial, w outcome) outcome { return w.with(t.keep, w.head) }),
			check: checkSnapshotIndependent},
		{name: "delete the source of a clone", prepare: func(t *trial) {
			t.clone = t.fixture.Clone(t.Source(t.old))
		}, call: func(t *trial) error { return t.Pool.Delete(t.Ctx, t.d.ID) },
			done:  oneOutcome(func(*trial, outcome) outcome { return outcome{} }),
			check: func(t *trial, _ *crashCase, _ bool) { t.CheckContent(t.clone.ID, "file", first) }},
		{name: "delete a clone", removes: true, prepare: func(t *trial) {
			_, err := t.Pool.Clone(t.Ctx, t.clone, dataset.Source{Dataset: t.d.ID}, nil)
			t.OK(err)
		}, call: func(t *trial) error { return t.Pool.Delete(t.Ctx, t.clone.ID) }, done: oneOutcome(unchanged),
			check: func(t *trial, _ *crashCase, done bool) {
				if done {
					t.CheckAbsent(t.clone.ID)
				}
			}},
	}...), copyCrashOperations()...)
}

// copyCrashOperations returns the operations of crashOperations that need a pool that keeps copies.
func copyCrashOperations() []operation {
	return []operation{
		{
			name:        "receive",
			needsCopies: true,
			receives:    true,
			call:        (*trial).receiveAll,
			done:        oneOutcome(unchanged),
			check:       checkReceived,
		},
		{
			name: "demote what was restored", keepKind: dataset.SnapshotRestore, needsCopies: true, demotes: true,
			prepare: func(t *trial) {
				t.OK(t.Pool.Restore(t.Ctx, t.d.ID, t.old.ID, t.keep, nil))
				t.changeTo(func(w outcome) outcome { return afterRestore(first)(t, w) })
			},
			call:       func(t *trial) error { return t.Copier().Demote(t.Ctx, t.d.ID, t.old.ID) },
			done:       oneOutcome(func(_ *trial, w outcome) outcome { return w.as(backends.EntryCopy) }),
			afterCrash: func(t *trial) { t.promoteAndCheck(t.old, first) },
		},
		{name: "promote the last", keepKind: dataset.SnapshotTransfer, needsCopies: true, prepare: func(t *trial) {
			t.OK(t.Pool.Snapshot(t.Ctx, t.keep, nil))
			t.OK(t.Copier().Demote(t.Ctx, t.d.ID, t.keep.ID))
			t.changeTo(func(w outcome) outcome { return w.with(t.keep, w.head).as(backends.EntryCopy) })
		}, call: func(t *trial) error { return t.promote(t.keep) },
			done:  oneOutcome(func(_ *trial, w outcome) outcome { return w.as(backends.EntryReady).withHead(third) }),
			check: checkSnapshotIndependent},
		{name: "promote another", keepKind: dataset.SnapshotSuperseded, needsCopies: true, prepare: func(t *trial) {
			t.OK(t.Copier().Supersede(t.Ctx, t.d.ID, t.keep))
			t.changeTo(func(w outcome) outcome { return afterSupersede(t, w) })
			t.OK(t.Copier().Promote(t.Ctx, t.d.ID, t.old.ID))
		}, call: func(t *trial) error { return t.Copier().Promote(t.Ctx, t.d.ID, t.keep.ID) },
			done:         oneOutcome(unchanged),
			afterSuccess: func(t *trial) { t.promoteAndCheck(t.keep, third) },
			afterCrash:   func(t *trial) { t.promoteAndCheck(t.old, first) }},
	}
}

// giveOwner sets an owner and a mode for the dataset that will be made.
func (t *trial) giveOwner() {
	mode := uint32(0o750)
	t.clone.Profile.Owner = &dataset.Owner{UID: 999, GID: 998, Mode: &mode}
}

// afterRestore returns the outcome of a restore.
func afterRestore(content string) func(t *trial, w outcome) outcome {
	return func(t *trial, w outcome) outcome { return w.with(t.keep, w.head).withHead(content) }
}

// afterSupersede returns the outcome of a Supersede: the head was kept as a snapshot of a copy.
func afterSupersede(t *trial, w outcome) outcome {
	return w.with(t.keep, w.head).as(backends.EntryCopy)
}

// retryFollower is the name of the follower that repeats the failed operation.
const retryFollower = "the same again"

// followers returns the operations that run after a failed one. The follower retryFollower repeats the failed
// operation. Every other follower calls makeHome before it changes the head. makeHome gives the dataset a head and
// chooses a new snapshot for the trial, so that the follower makes another snapshot than the failed operation.
func followers() []operation {
	return []operation{
		{name: "restore of another", call: func(t *trial) error {
			t.makeHome(dataset.SnapshotRestore)
			return t.Pool.Restore(t.Ctx, t.d.ID, t.mid.ID, t.keep, nil)
		}, done: oneOutcome(afterRestore(second))},
		{name: "snapshot", call: func(t *trial) error {
			t.makeHome(dataset.SnapshotManual)
			return t.Pool.Snapshot(t.Ctx, t.keep, nil)
		}, done: oneOutcome(func(t *trial, w outcome) outcome { return w.with(t.keep, w.head) })},
		{name: retryFollower},
		{name: "removal of the kept snapshot, and restore", call: func(t *trial) error {
			t.OK(t.Pool.DeleteSnapshot(t.Ctx, t.d.ID, t.keep.ID))
			t.changeTo(func(w outcome) outcome { return w.without(t.keep) })
			t.makeHome(dataset.SnapshotRestore)
			return t.Pool.Restore(t.Ctx, t.d.ID, t.mid.ID, t.keep, nil)
		}, done: oneOutcome(afterRestore(second))},
		{name: "supersede", needsCopies: true, call: func(t *trial) error {
			t.makeHome(dataset.SnapshotSuperseded)
			t.OK(t.Copier().Supersede(t.Ctx, t.d.ID, t.keep))
			t.changeTo(func(w outcome) outcome { return afterSupersede(t, w) })
			t.makeHome(dataset.SnapshotManual)
			return nil
		}, done: oneOutcome(unchanged)},
		{name: "demote", needsCopies: true, call: func(t *trial) error {
			t.makeHome(dataset.SnapshotTransfer)
			t.OK(t.Pool.Snapshot(t.Ctx, t.keep, nil))
			t.changeTo(func(w outcome) outcome { return w.with(t.keep, w.head) })
			t.OK(t.Copier().Demote(t.Ctx, t.d.ID, t.keep.ID))
			t.changeTo(func(w outcome) outcome { return w.as(backends.EntryCopy) })
			t.makeHome(dataset.SnapshotManual)
			return nil
		}, done: oneOutcome(unchanged)},
	}
}

// makeHome turns a copy into a dataset with a head, from the second snapshot. It also prepares a new snapshot of this
// kind for the trial.
func (t *trial) makeHome(kind dataset.SnapshotKind) {
	t.Helper()
	t.keep = t.NewSnapshot(t.d)
	t.keep.Kind = kind
	if t.state() != backends.EntryCopy {
		return
	}
	t.OK(t.Copier().Promote(t.Ctx, t.d.ID, t.mid.ID))
	t.OK(t.Pool.Commit(t.Ctx, t.d.ID))
	t.changeTo(func(w outcome) outcome {
		if w.state != backends.EntryCopy {
			return w
		}
		for id, content := range w.pending {
			w = w.with(dataset.Snapshot{ID: id}, content)
		}
		return w.as(backends.EntryReady).withHead(second)
	})
}
