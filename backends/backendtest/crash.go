package backendtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// Crashes are the parts of the crash matrix that depend on the backend.
type Crashes struct {
	// Crash runs a call on the pool of cfg as another process would, and crashes at a step, counted from 0. It
	// returns false if the call ended before it reached the step. CutAtEachStep does not use it.
	Crash func(t T, cfg backends.Config, call Call, step int) bool
	// Sized fails the test unless a dataset has one of these sizes. done means that the last resize was not
	// interrupted. If Sized is nil, sizes are not checked.
	Sized func(t T, pool backends.Pool, id uuid.UUID, done bool, sizes ...dataset.Size)
	// CheckReaped fails the test if a reaped pool still has remains of an operation. If CheckReaped is nil, only the
	// list is checked.
	CheckReaped func(t T, pool backends.Pool)
	// NoSteps names operations in which the backend calls no step function, so that they cannot be interrupted.
	// CutAtEachStep does not use it.
	NoSteps []string
	// Only names the operations that crash. If Only is nil, all operations crash. CutAtEachStep does not use it.
	Only []string
	// Turn saves time. It reports whether an operation crashes at a step. Both are counted from 0. If Turn is nil, each
	// operation crashes at each step. An operation that does not reach one of its turns crashes at its first step.
	Turn func(operation, step int) bool
	// Alternate saves time. Without it, each operation crashes twice at each step: once with a Reap after the crash,
	// and once without. With it, the operation crashes once at each step, and a Reap follows half of the crashes.
	// CutAtEachStep does not use it.
	Alternate bool
	// RepeatedSteps is for CutAtEachStep, which tests the last RepeatedSteps steps of an operation in an additional
	// way: it interrupts the operation at the step, runs it again, and cuts the power when the second run has returned.
	// A number that is larger than the number of steps means all steps.
	RepeatedSteps int
	// SameStreams means that sending a received snapshot produces the same bytes that were received.
	SameStreams bool
}

// larger is the new size of a dataset of size little in the crash matrix.
const larger = 384 * dataset.MiB

// Call is an operation on the dataset of a trial. Another process can decode it from JSON and run it.
type Call struct {
	Operation string
	Dataset   dataset.Dataset
	Clone     dataset.Dataset  // the dataset to make
	Old, Mid  dataset.Snapshot // of Dataset
	Keep      dataset.Snapshot // the snapshot to take
	Arrivals  []arrival        // the snapshots to receive
}

// Run runs the call. It can be repeated.
func (c Call) Run(ctx context.Context, pool backends.Pool) error {
	t := &trial{
		fixture: &fixture{}, d: c.Dataset, clone: c.Clone, old: c.Old, mid: c.Mid, keep: c.Keep, arrivals: c.Arrivals,
	}
	t.Ctx, t.Pool = ctx, pool
	for _, o := range crashOperations() {
		if o.name == c.Operation {
			return o.call(t)
		}
	}
	return fmt.Errorf("no operation %q", c.Operation)
}

func (t *trial) asCall(o operation) Call {
	return Call{o.name, t.d, t.clone, t.old, t.mid, t.keep, t.arrivals}
}

// labelled is a T whose messages begin with a label, which describes the crash that is tested.
type labelled struct {
	T
	label string
}

func (l labelled) Errorf(format string, args ...any) {
	l.Helper()
	l.T.Errorf("%s: %s", l.label, fmt.Sprintf(format, args...))
}

func (l labelled) Fatalf(format string, args ...any) {
	l.Helper()
	l.T.Fatalf("%s: %s", l.label, fmt.Sprintf(format, args...))
}

func (l labelled) Error(args ...any) { l.Helper(); l.Errorf("%s", fmt.Sprint(args...)) }
func (l labelled) Fatal(args ...any) { l.Helper(); l.Fatalf("%s", fmt.Sprint(args...)) }

// turn reports whether the operation of the case crashes at a step.
func (s *crashCase) turn(step int) bool { return s.Turn == nil || s.Turn(s.number, step) }

// Crashing is the crash matrix: each operation crashes at each of its steps. After each crash the pool is opened as
// after a restart. It must have the state before or after the operation, and still have it after Reap. Then the
// operation is repeated twice. Both attempts must succeed and leave nothing else behind. Crashing needs root. Package
// crashing has two ways to crash.
func Crashing[R Runner[R]](t R, name string, factory Factory[R], c Crashes) {
	t.Run(name, func(t R) {
		for number, o := range crashOperations() {
			if c.Only != nil && !slices.Contains(c.Only, o.name) {
				continue
			}
			t.Run(o.name, func(t R) {
				f := newFixture(t, func() (backends.Kind, backends.Config) { return factory(t) })
				for _, fs := range o.filesystems(f) {
					s := crashCase{fixture: f, Crashes: c, o: o, number: number, fs: fs, unlabelled: t}
					for step := 0; s.crashAt(step); step++ {
					}
					if !s.crashed && !s.turn(0) {
						s.Turn = nil
						s.crashAt(0)
					}
				}
			})
		}
	})
}

// copyRestorer has one method of backends.Sharer. The pools of backend dir have this method but are not Sharers,
// because they are not shared. The crash matrix tests the method on them.
type copyRestorer interface {
	RestoreByCopy(ctx context.Context, ds, snapshot uuid.UUID, keep dataset.Snapshot, progress backends.Progress) error
}

// filesystems returns the filesystems with which the operation must be tested separately. It returns none if the pool
// does not support the operation.
func (o operation) filesystems(f *fixture) []string {
	_, restoresByCopy := f.Pool.(copyRestorer)
	switch {
	case o.needsCopies && !f.Can.Delta, o.shares && !restoresByCopy, o.grows && !f.Can.EnforcesSize:
		return nil
	case o.grows:
		return f.Filesystems()
	}
	return []string{""}
}

// crashCase is the test of one operation of the crash matrix on a pool.
type crashCase struct {
	*fixture
	Crashes
	o          operation
	number     int    // of the operation
	fs         string // of the dataset; if empty, the pool's default
	unlabelled T
	crashed    bool      // at one step at least
	arrivals   []arrival // from another pool; they are the same at each step
}

// crashAt runs the operation, crashes at the given step, and checks the pool. It returns false if the operation has no
// such step. If turn excludes the step, it does nothing and returns true.
func (s *crashCase) crashAt(step int) (reached bool) {
	s.Helper()
	if !s.turn(step) {
		return true
	}
	for _, reap := range []bool{false, true} {
		if s.Alternate && reap != ((step+1)/2%2 == 1) {
			continue
		}
		label := fmt.Sprintf("%s %s after a crash at step %d (reaped: %t)", s.o.name, s.fs, step, reap)
		s.T = labelled{s.unlabelled, label}
		t := s.prepareTrial()
		before := t.outcomes
		stopped := s.Crash(t.T, t.Config, t.asCall(s.o), step)
		if !stopped && step == 0 && !s.o.noSteps && !slices.Contains(s.NoSteps, s.o.name) {
			t.Errorf("it has no steps")
		}
		reached = reached || stopped
		s.crashed = s.crashed || stopped
		t.restart()
		t.change(s.o.done(t))
		after := t.outcomes
		if stopped {
			t.addInterrupted(s.o, before)
			t.checkOutcomes(s, false)
			if reap {
				s.reapAndCheck(t)
				t.checkOutcomes(s, false)
			}
			t.outcomes = after
		}
		if stopped && reap && s.o.afterCrash != nil {
			s.o.afterCrash(t)
		} else {
			t.Twice(func() error { return t.asCall(s.o).Run(t.Ctx, t.Pool) })
			s.checkFinished(t)
		}
		s.removeAll(t)
	}
	return reached
}

// prepareTrial makes the dataset and the snapshots that the operation needs.
func (s *crashCase) prepareTrial() *trial {
	s.Helper()
	size := dataset.Size(0)
	if s.Can.EnforcesSize {
		size = little
	}
	t := newTrial(s.fixture, size, s.fs, false)
	t.headNotMounted = s.o.demotes
	if s.o.keepKind != "" {
		t.keep.Kind = s.o.keepKind
	}
	if s.o.receives {
		if s.arrivals == nil {
			s.arrivals = t.send(size)
		}
		t.arrivals = s.arrivals
		t.clone = s.arrivals[0].Dataset
	}
	if s.o.prepare != nil {
		s.o.prepare(t)
	}
	return t
}

// checkOutcomes checks that the pool has one of the possible outcomes, with all contents and sizes.
func (t *trial) checkOutcomes(s *crashCase, done bool) {
	t.Helper()
	observed := t.observe("look")
	t.checkMatches("look", observed)
	for id := range observed.snapshots {
		t.checkSnapshotContent("look", observed, id)
	}
	if s.Sized != nil && observed.state == backends.EntryReady && t.d.Size > 0 && !t.headNotMounted {
		switch {
		case !s.o.resizes:
			s.Sized(t.T, t.Pool, t.d.ID, true, t.d.Size)
		case done:
			s.Sized(t.T, t.Pool, t.d.ID, true, larger)
		default:
			s.Sized(t.T, t.Pool, t.d.ID, false, t.d.Size, larger)
		}
	}
	if s.o.check != nil {
		s.o.check(t, s, done)
	}
}

// checkFinished checks the pool and the effect of the operation after the operation has ended.
func (s *crashCase) checkFinished(t *trial) {
	t.Helper()
	t.checkOutcomes(s, true)
	if s.o.afterSuccess != nil {
		s.o.afterSuccess(t)
	}
}

// reapAndCheck reaps the pool, drops datasets that are not committed, and checks that nothing else is left of an
// operation.
func (s *crashCase) reapAndCheck(t *trial) {
	t.Helper()
	for try := range 2 {
		n, err := t.Pool.Reap(t.Ctx, func(uuid.UUID) bool { return true })
		t.OK(err)
		if n != 0 && try > 0 {
			t.Errorf("the second reap removed %d objects", n)
		}
	}
	list, err := t.Pool.List(t.Ctx)
	t.OK(err)
	for _, e := range list {
		if e.Problem != "" || e.State != backends.EntryReady && e.State != backends.EntryCopy {
			t.Errorf("the list contains %+v", e)
		}
	}
	if s.CheckReaped != nil {
		s.CheckReaped(t.T, t.Pool)
	}
}

// removeAll deletes everything that a trial made.
func (s *crashCase) removeAll(t *trial) {
	t.Helper()
	s.reapAndCheck(t)
	for _, id := range []uuid.UUID{t.d.ID, t.clone.ID} {
		t.OK(t.Pool.Delete(t.Ctx, id))
	}
	s.reapAndCheck(t)
	if list, err := t.Pool.List(t.Ctx); err != nil || len(list) > 0 {
		t.Fatalf("after everything was removed, the list contains %+v, %v", list, err)
	}
}

// arrival is a snapshot that another pool sent into a file.
type arrival struct {
	Dataset  dataset.Dataset
	Snapshot dataset.Snapshot
	Base     uuid.UUID
	File     string
}

// send makes a dataset with two snapshots in another pool, and sends both.
func (t *trial) send(size dataset.Size) (sent []arrival) {
	t.Helper()
	o := t.other()
	d, base := o.Sized(size), uuid.Nil
	d.Size = size
	for i, content := range []string{first, third} {
		o.Write(d.ID, "file", content)
		a := arrival{d, o.TakeSnapshot(d), base, filepath.Join(t.TempDir(), fmt.Sprint(i))}
		stream, _ := o.stream(a.Snapshot, base)
		t.OK(os.WriteFile(a.File, stream, 0o600))
		sent, base = append(sent, a), a.Snapshot.ID
	}
	return sent
}

// receiveAll receives the snapshots that another pool sent. It resumes a snapshot after the bytes that were received
// already.
func (t *trial) receiveAll() error {
	for _, a := range t.arrivals {
		received, err := t.Copier().Received(t.Ctx, a.Dataset.ID, a.Snapshot.ID)
		if err != nil {
			return err
		}
		file, err := os.Open(a.File)
		if err != nil {
			return err
		}
		defer file.Close()
		if _, err := file.Seek(received.Bytes, io.SeekStart); err != nil {
			return err
		}
		if err := t.receive(a.Dataset, a.Snapshot, a.Base, received.Bytes, file); err != nil {
			return err
		}
	}
	return nil
}

// checkReceived checks a copy. Its snapshots may be missing unless done is set.
func checkReceived(t *trial, s *crashCase, done bool) {
	t.Helper()
	e, err := t.Pool.Stat(t.Ctx, t.clone.ID)
	if errors.Is(err, dataset.ErrNotFound) && !done {
		return
	}
	t.OK(err)
	if e.State != backends.EntryCopy || e.Promoted || e.Problem != "" {
		t.Errorf("the copy is %+v", e)
	}
	for i, a := range t.arrivals {
		if !done && !slices.ContainsFunc(e.Snapshots, func(h dataset.Snapshot) bool { return h.ID == a.Snapshot.ID }) {
			continue
		}
		t.checkCloneFile(a.Snapshot, "file", []string{first, third}[i])
		if s.SameStreams {
			stream, _ := t.stream(a.Snapshot, a.Base)
			t.CheckFile(a.File, string(stream))
		}
	}
}

// checkCloneFile fails unless a clone of a snapshot has a file with that content. If content is "", the clone must not
// have the file.
func (t *trial) checkCloneFile(s dataset.Snapshot, name, content string) {
	t.Helper()
	c := t.Record()
	_, err := t.Pool.Clone(t.Ctx, c, t.Source(s), nil)
	t.OK(err)
	t.CheckContent(c.ID, name, content)
	t.OK(t.Pool.Delete(t.Ctx, c.ID))
}

// checkMade checks the dataset that an operation makes. It may be missing unless done is set.
func checkMade(content string) func(t *trial, s *crashCase, done bool) {
	return func(t *trial, s *crashCase, done bool) {
		t.Helper()
		_, err := t.Pool.Stat(t.Ctx, t.clone.ID)
		if errors.Is(err, dataset.ErrNotFound) && !done {
			return
		}
		t.OK(err)
		t.CheckContent(t.clone.ID, "file", content)
		if s.Sized != nil && t.clone.Size > 0 {
			s.Sized(t.T, t.Pool, t.clone.ID, true, t.clone.Size)
		}
		if o := t.clone.Profile.Owner; o != nil {
			t.checkOwner(t.clone.ID, *o)
		}
	}
}

// checkSnapshotIndependent writes to the former head once the snapshot is listed. The snapshot must not change.
func checkSnapshotIndependent(t *trial, _ *crashCase, _ bool) {
	t.Helper()
	e, err := t.Pool.Stat(t.Ctx, t.d.ID)
	t.OK(err)
	listed := slices.ContainsFunc(e.Snapshots, func(h dataset.Snapshot) bool { return h.ID == t.keep.ID })
	if listed && e.State == backends.EntryReady {
		t.Write(t.d.ID, "later", "content")
		t.checkCloneFile(t.keep, "later", "")
	}
}

func (t *trial) promote(s dataset.Snapshot) error {
	if err := t.Copier().Promote(t.Ctx, t.d.ID, s.ID); err != nil {
		return err
	}
	return t.Pool.Commit(t.Ctx, t.d.ID)
}

// promoteAndCheck promotes the dataset if it is a copy, and checks its content.
func (t *trial) promoteAndCheck(s dataset.Snapshot, content string) {
	t.Helper()
	if t.state() == backends.EntryCopy {
		t.OK(t.promote(s))
	}
	t.CheckContent(t.d.ID, "file", content)
	t.checkCloneFile(s, "file", content)
	t.Write(t.d.ID, "later", "content")
	t.checkCloneFile(s, "later", "")
}

// checkOwner checks the owner and the mode of a dataset's root.
func (t *trial) checkOwner(id uuid.UUID, want dataset.Owner) {
	t.Helper()
	m := t.Mount(id)
	defer m.Unmount()
	var st unix.Stat_t
	t.OK(unix.Fstat(int(m.Root.Fd()), &st))
	if int64(st.Uid) != int64(want.UID) || int64(st.Gid) != int64(want.GID) || st.Mode != unix.S_IFDIR|*want.Mode {
		t.Errorf("the root has owner and mode %d:%d %o, want %+v", st.Uid, st.Gid, st.Mode, want)
	}
}

// restart opens the pool as a new process does after a crash. The former pool was not closed.
func (t *trial) restart() {
	t.Helper()
	pool, err := t.Kind.Open(t.Ctx, t.Config)
	t.OK(err)
	t.Pool = pool
}
