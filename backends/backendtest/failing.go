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

// Failing injects failures into each operation. It runs an operation once for each system call that changes something,
// and makes that call fail. There are two kinds of failure: the call fails with ENOSPC, or it and all later calls fail
// with EIO.
//
// After the failure another operation runs and the pool is reopened. Its list must be that of the pool before or after
// the failed operation. Nothing may be lost, no snapshot may be listed that was not taken, and each listed snapshot
// must be removable without harm to another.
//
// If thorough is set, every following operation is tried after each failure of both kinds. Otherwise, the kinds and the
// following operations take turns from call to call.
func Failing[R Runner[R]](t R, name string, factory Factory[R], inject Inject, thorough bool) {
	t.Run(name, func(t R) {
		for _, o := range operations() {
			if o.apart && !thorough {
				continue
			}
			t.Run(o.name, func(t R) {
				f := newFixture(t, func() (backends.Kind, backends.Config) { return factory(t) })
				if o.delta && !f.Can.Delta || o.shares && !f.Can.ManyHosts {
					return
				}
				o.failAtEachCall(f, inject, thorough)
			})
		}
	})
}

// world is one possible state of a dataset in a pool.
type world struct {
	state backends.EntryState // "": it is gone
	head  string              // content of the head; not checked for a copy
	has   map[uuid.UUID]string
	// pending has the snapshots that are not listed, but will be after the next change of the head. They exist if the
	// superseded head of a copy was not removed yet.
	pending map[uuid.UUID]string
}

func (w world) with(s dataset.Snapshot, content string) world {
	w.has = maps.Clone(w.has)
	w.has[s.ID] = content
	return w
}

func (w world) without(s dataset.Snapshot) world {
	w.has, w.pending = maps.Clone(w.has), maps.Clone(w.pending)
	delete(w.has, s.ID)
	delete(w.pending, s.ID)
	return w
}

func (w world) headed(content string) world {
	w.head = content
	return w
}

func (w world) as(state backends.EntryState) world {
	w.state = state
	return w
}

// The successive contents of the file in a trial's dataset.
const (
	first  = "content of the first snapshot"
	second = "of the second"
	third  = "of the head"
)

// trial is a dataset with snapshots of its first two contents. An operation on it fails.
type trial struct {
	*fixture
	d        dataset.Dataset
	old, mid dataset.Snapshot
	keep     dataset.Snapshot // the snapshot that the operation makes, if any
	clone    dataset.Dataset  // the clone that the operation makes, if any
	worlds   []world          // the possible states at present
	arrivals []arrival        // the snapshots that it receives
	// unflushed means that a power cut may lose the last content of the head, because nothing flushed it.
	unflushed bool
	unread    bool // do not mount the head: a mount would change it
}

// newTrial makes the dataset of a trial. It has one snapshot unless midway is set.
func newTrial(f *fixture, size dataset.Size, fs string, midway bool) *trial {
	f.Helper()
	t := &trial{fixture: f, d: f.Record(), clone: f.Record()}
	t.d.Size, t.clone.Size = size, size
	t.d.Profile.Filesystem.Type, t.clone.Profile.Filesystem.Type = fs, fs
	var err error
	t.d.Size, err = f.Pool.Create(f.Ctx, t.d)
	f.OK(err)
	f.OK(f.Pool.Commit(f.Ctx, t.d.ID))
	f.write(t.d.ID, "file", first)
	t.old = f.Take(t.d)
	w := world{backends.EntryReady, third, map[uuid.UUID]string{t.old.ID: first}, nil}
	if midway {
		f.write(t.d.ID, "file", second)
		t.mid = f.Take(t.d)
		w = w.with(t.mid, second)
	}
	f.write(t.d.ID, "file", third)
	t.keep = f.NewSnapshot(t.d)
	t.worlds = []world{w}
	return t
}

// change replaces each possible world by the worlds that the function returns for it.
func (t *trial) change(change func(world) []world) {
	var now []world
	for _, w := range t.worlds {
		if w.state == "" {
			now = append(now, w)
		} else {
			now = append(now, change(w)...)
		}
	}
	t.worlds = now
}

// becomes is change for a function that returns one world.
func (t *trial) becomes(change func(world) world) {
	t.change(func(w world) []world { return []world{change(w)} })
}

// failAtEachCall makes each system call of an operation fail, one after the other.
func (o operation) failAtEachCall(f *fixture, inject Inject, thorough bool) {
	f.Helper()
	after := slices.DeleteFunc(followers(), func(then operation) bool { return then.delta && !f.Can.Delta })
	for at := 0; ; at++ {
		failures := []Failure{{at, unix.ENOSPC, false}, {at, unix.EIO, true}}
		then := after
		if !thorough {
			failures = failures[at%2:][:1]
			then = then[(at+at/len(after))%len(after):][:1]
		}
		reached := false
		for _, failure := range failures {
			for order, next := range then {
				reached = o.fail(f, inject, failure, next, at+order) || reached
			}
		}
		if !reached {
			break
		}
	}
}

// fail makes one system call of an operation fail, and checks the pool after another operation. It returns false if
// there is no such call.
func (o operation) fail(f *fixture, inject Inject, failure Failure, then operation, order int) bool {
	f.Helper()
	t := newTrial(f, 0, "", true)
	if o.keeps != "" {
		t.keep.Kind = o.keeps
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
	before := slices.Clone(t.worlds)
	t.change(o.done(t))
	if err != nil {
		t.interrupted(o, before)
	}
	if then.name == again {
		t.worlds = before
		then.call, then.done = o.call, o.done
	}
	if t.state() != "" || then.name == again {
		if err := then.call(t); err != nil {
			f.Fatalf("%s: the second one fails with %v", what, err)
		}
		t.change(then.done(t))
	}
	t.checkSettled(what, order)
	return reached
}

// interrupted adds the worlds from before an operation, and those in which it is half done.
func (t *trial) interrupted(o operation, before []world) {
	t.worlds = slices.Concat(t.worlds, before)
	if o.between != nil {
		for _, w := range before {
			t.worlds = append(t.worlds, o.between(t, w)...)
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

// checkSettled reopens the pool, checks that it has one of the possible worlds, and removes everything.
func (t *trial) checkSettled(what string, order int) {
	t.Helper()
	t.Open()
	now := t.observe(what)
	_, err := t.Pool.Reap(t.Ctx, func(uuid.UUID) bool { return false })
	t.OK(err)
	if reaped := t.observe(what); !maps.Equal(reaped.has, now.has) || reaped.head != now.head ||
		reaped.state != now.state {
		t.Fatalf("%s: there was %v, and after reaping %v", what, now, reaped)
	}
	t.checkFits(what, now)
	ids := idsOf(now.has)
	for i := range ids {
		id := uuid.MustParse(ids[(i+order)%len(ids)])
		t.holdsSnapshot(fmt.Sprintf("%s, and %d snapshots were removed", what, i), now, id)
		t.OK(t.Pool.DeleteSnapshot(t.Ctx, t.d.ID, id))
	}
	if left := t.observe(what); len(left.has) > 0 || left.head != now.head {
		t.Fatalf("%s: without the snapshots there is %v, want the head with %q", what, left, now.head)
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

// checkFits checks the state, the head and the list of snapshots of the dataset.
func (t *trial) checkFits(what string, now world) {
	t.Helper()
	t.narrow(what, now, func(w world) bool {
		head := w.head == now.head || w.state != backends.EntryReady || t.unflushed && w.head == third
		return w.state == now.state && head && slices.Equal(idsOf(w.has), idsOf(now.has))
	})
}

// holdsSnapshot checks the content of a listed snapshot.
func (t *trial) holdsSnapshot(what string, now world, id uuid.UUID) {
	t.Helper()
	c := t.Record()
	_, err := t.Pool.Clone(t.Ctx, c, dataset.Source{Dataset: t.d.ID, Snapshot: id}, nil)
	if err != nil {
		t.Fatalf("%s: snapshot %s cannot be read: %v", what, id, err)
	}
	now.has[id] = t.content(c.ID)
	t.narrow(what, now, func(w world) bool { return w.has[id] == now.has[id] })
	t.OK(t.Pool.Delete(t.Ctx, c.ID))
}

// narrow drops the possible worlds that do not fit the pool, and fails if none is left.
func (t *trial) narrow(what string, now world, fits func(world) bool) {
	t.Helper()
	possible := slices.DeleteFunc(slices.Clone(t.worlds), func(w world) bool { return !fits(w) })
	if len(possible) == 0 {
		t.Fatalf("%s: the pool contains %v, which is none of %v", what, now, t.worlds)
	}
	t.worlds = possible
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
func (t *trial) observe(what string) world {
	t.Helper()
	now := world{has: map[uuid.UUID]string{}}
	entries := t.Entries(t.d.ID)
	if len(entries) == 0 {
		return now
	}
	e := entries[0]
	if len(entries) > 1 || e.Problem != "" {
		t.Fatalf("%s: listed as %+v", what, entries)
	}
	now.state = e.State
	for _, s := range e.Snapshots {
		if _, twice := now.has[s.ID]; twice {
			t.Fatalf("%s: snapshot %s is listed twice", what, s.ID)
		}
		now.has[s.ID] = ""
	}
	switch {
	case e.State != backends.EntryReady:
	case t.unread:
		c := t.fixture.Clone(dataset.Source{Dataset: t.d.ID})
		now.head = t.content(c.ID)
		t.OK(t.Pool.Delete(t.Ctx, c.ID))
	default:
		now.head = t.content(t.d.ID)
	}
	return now
}

// content returns the content of the file in a head.
func (t *trial) content(id uuid.UUID) string {
	t.Helper()
	m := t.mount(id)
	defer m.unmount()
	text, err := os.ReadFile(m.in("file"))
	if !t.unflushed || !errors.Is(err, os.ErrNotExist) {
		t.OK(err)
	}
	return string(text)
}
