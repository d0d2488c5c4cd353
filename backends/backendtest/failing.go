package backendtest

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// Failure describes which modifying system calls of an operation fail.
type Failure struct {
	At      int        // index of the first call that fails
	Errno   unix.Errno // the error of the failing call
	Onwards bool       // all calls after it fail too
}

// Inject calls do, and makes its system calls fail as f says. It returns the names of all system calls that change
// something.
type Inject func(f Failure, do func()) (calls []string, err error)

// Failing injects failures into each operation. For each system call that changes something, it runs the operation and
// makes that call fail. There are two kinds of failure: the call fails with ENOSPC, or it and all later calls fail with
// EIO.
//
// After the failure another operation runs and the pool is reopened. Its list must be that of the pool before or after
// the failed operation. Nothing may be lost, no snapshot may be listed that was not taken, and each listed snapshot
// must be removable without harm to another.
//
// If every is 0, each failing call is tested with both kinds of failure and with each operation that can follow.
// Otherwise, only a call whose number is a multiple of every is tested, with one kind and one following operation.
// These alternate from test to test. Operations with fullOnly are skipped.
func Failing[R Runner[R]](t R, name string, factory Factory[R], inject Inject, every int) {
	t.Run(name, func(t R) {
		for _, o := range operations() {
			if o.fullOnly && every > 0 {
				continue
			}
			t.Run(o.name, func(t R) {
				f := newFixture(t, func() (backends.Kind, backends.Config) { return factory(t) })
				if o.needsCopies && !f.Can.Delta || o.shares && !f.Can.ManyHosts {
					return
				}
				o.failAtEachCall(f, inject, every)
			})
		}
	})
}

// outcome is one possible state of a dataset in a pool.
type outcome struct {
	state     backends.EntryState  // "" if the dataset is absent
	head      string               // content of the head; not checked for a copy
	snapshots map[uuid.UUID]string // content of each listed snapshot
	// pending has the snapshots that appear in the list only after the next change of the head. They exist if the
	// superseded head of a copy was not removed yet.
	pending map[uuid.UUID]string
}

func (w outcome) with(s dataset.Snapshot, content string) outcome {
	w.snapshots = maps.Clone(w.snapshots)
	w.snapshots[s.ID] = content
	return w
}

func (w outcome) without(s dataset.Snapshot) outcome {
	w.snapshots, w.pending = maps.Clone(w.snapshots), maps.Clone(w.pending)
	delete(w.snapshots, s.ID)
	delete(w.pending, s.ID)
	return w
}

func (w outcome) withHead(content string) outcome {
	w.head = content
	return w
}

func (w outcome) as(state backends.EntryState) outcome {
	w.state = state
	return w
}

// The successive contents of the file in a trial's dataset.
const (
	first  = "content of the first snapshot"
	second = "of the second"
	third  = "of the head"
)

// trial is a dataset on which an operation is interrupted or made to fail. It has snapshots of its first content, and
// possibly of its second.
type trial struct {
	*fixture
	d        dataset.Dataset
	old, mid dataset.Snapshot
	keep     dataset.Snapshot // the snapshot that the operation makes, if any
	clone    dataset.Dataset  // the clone that the operation makes, if any
	outcomes []outcome        // the possible states at present
	arrivals []arrival        // the snapshots that it receives
	// unflushed means that a power cut may lose the last content of the head, because nothing flushed it.
	unflushed      bool
	headNotMounted bool // do not mount the head: a mount would change it
}

// newTrial makes the dataset of a trial. The dataset has the snapshot old and, if midway is set, the snapshot mid.
func newTrial(f *fixture, size dataset.Size, fs string, midway bool) *trial {
	f.Helper()
	t := &trial{fixture: f, d: f.Record(), clone: f.Record()}
	t.d.Size, t.clone.Size = size, size
	t.d.Profile.Filesystem.Type, t.clone.Profile.Filesystem.Type = fs, fs
	var err error
	t.d.Size, err = f.Pool.Create(f.Ctx, t.d)
	f.OK(err)
	f.OK(f.Pool.Commit(f.Ctx, t.d.ID))
	f.Write(t.d.ID, "file", first)
	t.old = f.TakeSnapshot(t.d)
	w := outcome{backends.EntryReady, third, map[uuid.UUID]string{t.old.ID: first}, nil}
	if midway {
		f.Write(t.d.ID, "file", second)
		t.mid = f.TakeSnapshot(t.d)
		w = w.with(t.mid, second)
	}
	f.Write(t.d.ID, "file", third)
	t.keep = f.NewSnapshot(t.d)
	t.outcomes = []outcome{w}
	return t
}

// change replaces each possible outcome by the outcomes that change returns for it.
func (t *trial) change(change func(outcome) []outcome) {
	var changed []outcome
	for _, w := range t.outcomes {
		if w.state == "" {
			changed = append(changed, w)
		} else {
			changed = append(changed, change(w)...)
		}
	}
	t.outcomes = changed
}

// changeTo replaces each possible outcome by the one that change returns for it.
func (t *trial) changeTo(change func(outcome) outcome) {
	t.change(func(w outcome) []outcome { return []outcome{change(w)} })
}

// failAtEachCall makes each system call of an operation fail, one after the other, or one call in every.
func (o operation) failAtEachCall(f *fixture, inject Inject, every int) {
	f.Helper()
	after := slices.DeleteFunc(followers(), func(then operation) bool { return then.needsCopies && !f.Can.Delta })
	for n := 0; ; n++ {
		at := n * max(1, every)
		failures := []Failure{{at, unix.ENOSPC, false}, {at, unix.EIO, true}}
		then := after
		if every > 0 {
			failures = failures[n%2:][:1]
			then = then[(n+n/len(after))%len(after):][:1]
		}
		reached := false
		for _, failure := range failures {
			for order, next := range then {
				reached = o.failCall(f, inject, failure, next, at+order) || reached
			}
		}
		if !reached {
			break
		}
	}
}

// failCall makes one system call of an operation fail, runs another operation, and checks the pool. It returns false if
// the operation has no such call.
func (o operation) failCall(f *fixture, inject Inject, failure Failure, then operation, order int) bool {
	f.Helper()
	t := newTrial(f, 0, "", true)
	if o.keepKind != "" {
		t.keep.Kind = o.keepKind
	}
	if o.prepare != nil {
		o.prepare(t)
	}
	var err error
	calls, iErr := inject(failure, func() { err = o.call(t) })
	f.OK(iErr)
	reached := len(calls) > failure.At
	what := fmt.Sprintf("%s whose last of %d calls %v fails with %s (%v; also later calls: %t), then %s",
		o.name, failure.At+1, calls[:min(failure.At+1, len(calls))], unix.ErrnoName(failure.Errno), err,
		failure.Onwards, then.name)
	if !reached && err != nil {
		f.Fatalf("%s: failed without an injected failure", what)
	}
	before := slices.Clone(t.outcomes)
	t.change(o.done(t))
	if err != nil {
		t.addInterrupted(o, before)
	}
	if then.name == retryFollower {
		t.outcomes = before
		then.call, then.done = o.call, o.done
	}
	if t.state() != "" || then.name == retryFollower {
		if err := then.call(t); err != nil {
			f.Fatalf("%s: the second one fails with %v", what, err)
		}
		t.change(then.done(t))
	}
	t.checkSettled(what, order)
	return reached
}

// addInterrupted adds the outcomes of an interrupted operation: those before the operation, and those in which it is
// half done.
func (t *trial) addInterrupted(o operation, before []outcome) {
	t.outcomes = slices.Concat(t.outcomes, before)
	if o.between != nil {
		for _, w := range before {
			t.outcomes = append(t.outcomes, o.between(t, w)...)
		}
	}
}

// state returns the state of the dataset, or "" if it is absent.
func (t *trial) state() backends.EntryState {
	t.Helper()
	e, err := t.Pool.Stat(t.Ctx, t.d.ID)
	if errors.Is(err, dataset.ErrNotFound) {
		return ""
	}
	t.OK(err)
	return e.State
}

// checkSettled reopens the pool, checks that it has one of the possible outcomes, and removes everything. order chooses
// which snapshot is removed first.
func (t *trial) checkSettled(what string, order int) {
	t.Helper()
	t.Open()
	observed := t.observe(what)
	_, err := t.Pool.Reap(t.Ctx, func(uuid.UUID) bool { return false })
	t.OK(err)
	afterReap := t.observe(what)
	if !maps.Equal(afterReap.snapshots, observed.snapshots) || afterReap.head != observed.head ||
		afterReap.state != observed.state {
		t.Fatalf("%s: there was %v, and after reaping %v", what, observed, afterReap)
	}
	t.checkMatches(what, observed)
	ids := idsOf(observed.snapshots)
	for i := range ids {
		id := uuid.MustParse(ids[(i+order)%len(ids)])
		t.checkSnapshotContent(fmt.Sprintf("%s, and %d snapshots were removed", what, i), observed, id)
		t.OK(t.Pool.DeleteSnapshot(t.Ctx, t.d.ID, id))
	}
	if left := t.observe(what); len(left.snapshots) > 0 || left.head != observed.head {
		t.Fatalf("%s: without the snapshots there is %v, want the head with %q", what, left, observed.head)
	}
	t.OK(t.Pool.Delete(t.Ctx, t.d.ID))
	t.OK(t.Pool.Delete(t.Ctx, t.clone.ID))
	_, err = t.Pool.Reap(t.Ctx, func(uuid.UUID) bool { return true })
	t.OK(err)
	list, err := t.Pool.List(t.Ctx)
	if err != nil || len(list) > 0 {
		t.Fatalf("%s: after everything was removed, the list contains %+v, %v", what, list, err)
	}
}

// checkMatches checks the state, the head and the list of snapshots of the dataset.
func (t *trial) checkMatches(what string, observed outcome) {
	t.Helper()
	t.keepMatching(what, observed, func(w outcome) bool {
		head := w.head == observed.head || w.state != backends.EntryReady || t.unflushed && w.head == third
		return w.state == observed.state && head && slices.Equal(idsOf(w.snapshots), idsOf(observed.snapshots))
	})
}

// checkSnapshotContent checks the content of a listed snapshot.
func (t *trial) checkSnapshotContent(what string, observed outcome, id uuid.UUID) {
	t.Helper()
	c := t.Record()
	_, err := t.Pool.Clone(t.Ctx, c, dataset.Source{Dataset: t.d.ID, Snapshot: id}, nil)
	require.NoErrorf(t, err, "%s: snapshot %s cannot be read", what, id)
	observed.snapshots[id] = t.content(c.ID)
	t.keepMatching(what, observed, func(w outcome) bool { return w.snapshots[id] == observed.snapshots[id] })
	t.OK(t.Pool.Delete(t.Ctx, c.ID))
}

// keepMatching drops the possible outcomes that do not match the pool, and fails if none is left.
func (t *trial) keepMatching(what string, observed outcome, fits func(outcome) bool) {
	t.Helper()
	possible := slices.DeleteFunc(slices.Clone(t.outcomes), func(w outcome) bool { return !fits(w) })
	if len(possible) == 0 {
		t.Fatalf("%s: the pool contains %v, which is none of %v", what, observed, t.outcomes)
	}
	t.outcomes = possible
}

func idsOf(has map[uuid.UUID]string) []string {
	var ids []string
	for id := range has {
		ids = append(ids, id.String())
	}
	slices.Sort(ids)
	return ids
}

// observe returns the state of the pool, without the contents of snapshots.
func (t *trial) observe(what string) outcome {
	t.Helper()
	observed := outcome{snapshots: map[uuid.UUID]string{}}
	entries := t.Entries(t.d.ID)
	if len(entries) == 0 {
		return observed
	}
	e := entries[0]
	if len(entries) > 1 || e.Problem != "" {
		t.Fatalf("%s: listed as %+v", what, entries)
	}
	observed.state = e.State
	for _, s := range e.Snapshots {
		if _, twice := observed.snapshots[s.ID]; twice {
			t.Fatalf("%s: snapshot %s is listed twice", what, s.ID)
		}
		observed.snapshots[s.ID] = ""
	}
	switch {
	case e.State != backends.EntryReady:
	case t.headNotMounted:
		c := t.fixture.Clone(dataset.Source{Dataset: t.d.ID})
		observed.head = t.content(c.ID)
		t.OK(t.Pool.Delete(t.Ctx, c.ID))
	default:
		observed.head = t.content(t.d.ID)
	}
	return observed
}

// content returns the content of the file in a head.
func (t *trial) content(id uuid.UUID) string {
	t.Helper()
	m := t.Mount(id)
	defer m.Unmount()
	text, err := os.ReadFile(m.PathOf("file"))
	if !t.unflushed || !errors.Is(err, os.ErrNotExist) {
		t.OK(err)
	}
	return string(text)
}
