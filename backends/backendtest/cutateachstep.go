package backendtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
)

// CutAtEachStep is the crash matrix with power cuts. At each step it copies the disk without the writes that the kernel
// has not sent, and opens the pool on the copy. It tests an operation with the first of its filesystems only. kind
// returns a backend that calls step between two actions.
func CutAtEachStep[R Runner[R]](
	t R,
	name string,
	newDisk func(R) Disk,
	kind func(disk Disk, step func()) backends.Kind,
	c Crashes,
) {
	for number, o := range crashOperations() {
		t.Run(name+"/"+o.name, func(t R) {
			var disk Disk
			step := func() {}
			f := newFixture(t, func() (backends.Kind, backends.Config) {
				disk = newDisk(t)
				cfg := backends.Config{Name: "test", Path: filepath.Join(disk.Path, "pool")}
				return kind(disk, func() { step() }), cfg
			})
			own := disk // keep it, because newDisk changes the variable when another pool is made
			for _, fs := range o.filesystems(f)[:min(1, len(o.filesystems(f)))] {
				s := &crashCase{fixture: f, Crashes: c, o: o, number: number, fs: fs, unlabelled: t}
				s.cutAtEachStep(own, &step)
				if c.RepeatedSteps > 0 {
					steps := s.steps(&step)
					for at := max(0, steps-c.RepeatedSteps); at < steps; at++ {
						if s.turn(at) {
							s.cutAfterRetry(own, &step, at)
						}
					}
				}
			}
		})
	}
}

// prepareSynced prepares the trial of an operation, and writes everything to the disk.
func (s *crashCase) prepareSynced() *trial {
	s.Helper()
	t := s.prepareTrial()
	dir, err := os.Open(t.Config.Path)
	t.OK(err)
	t.OK(errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close()))
	return t
}

// steps returns the number of steps of the operation. The first operation of a pool can have more.
func (s *crashCase) steps(step *func()) (n int) {
	s.Helper()
	t := s.prepareTrial()
	*step = func() { n++ }
	t.OK(t.asCall(s.o).Run(t.Ctx, t.Pool))
	*step = func() {}
	s.removeAll(t)
	return n
}

// cutAtEachStep cuts the power at each step and after the operation.
func (s *crashCase) cutAtEachStep(disk Disk, step *func()) {
	s.Helper()
	t := s.prepareSynced()
	var copies []string // "" at a step without a power cut
	*step = func() {
		path := ""
		if s.turn(len(copies)) {
			path = disk.Copy()
		}
		copies = append(copies, path)
	}
	t.OK(t.asCall(s.o).Run(t.Ctx, t.Pool))
	*step = func() {}
	copies = append(copies, disk.Copy())
	before := t.outcomes
	t.change(s.o.done(t))
	after := t.outcomes
	for i, path := range copies {
		if path == "" {
			continue
		}
		s.T = labelled{s.unlabelled, fmt.Sprintf("%s after power cut %d of %d", s.o.name, i+1, len(copies))}
		c := t.onDisk(path)
		c.outcomes = after
		done := i == len(copies)-1
		if !done {
			c.addInterrupted(s.o, before)
		}
		c.checkOutcomes(s, done)
		c.outcomes = after
		c.OK(c.asCall(s.o).Run(c.Ctx, c.Pool))
		s.checkFinished(c)
		s.removeAll(c)
	}
	s.removeAll(t)
}

// cutAfterRetry interrupts the operation at a step, runs it again, and cuts the power when it returns. The retry finds
// the changes of the first attempt, and must make them durable before it returns.
func (s *crashCase) cutAfterRetry(disk Disk, step *func(), at int) {
	s.Helper()
	s.T = labelled{s.unlabelled, fmt.Sprintf("%s repeated after step %d", s.o.name, at)}
	t := s.prepareSynced()
	t.interrupt(step, at, func() { t.OK(t.asCall(s.o).Run(t.Ctx, t.Pool)) })
	t.OK(t.asCall(s.o).Run(t.Ctx, t.Pool))
	c := t.onDisk(disk.Copy())
	c.change(s.o.done(c))
	s.checkFinished(c)
	s.removeAll(t)
}

// interrupt runs do up to a step, and leaves everything as it is at that step.
func (t *trial) interrupt(step *func(), at int, do func()) {
	t.Helper()
	type interruption struct{}
	*step = func() {
		if at == 0 {
			panic(interruption{})
		}
		at--
	}
	defer func() {
		*step = func() {}
		if r := recover(); r != (interruption{}) {
			t.Fatalf("not interrupted: %v", r)
		}
	}()
	do()
}

// onDisk returns the trial on the pool of a copied disk.
func (t *trial) onDisk(disk string) *trial {
	t.Helper()
	c := *t
	c.fixture = t.fixture.onDisk(disk)
	return &c
}
