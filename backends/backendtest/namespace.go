package backendtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

// writer is a process that has a dataset mounted in a mount namespace of its own, where no unmount
// of the host reaches it.
type writer struct {
	f    *fixture
	pid  int
	tell *os.File
	out  *os.File
	said *bufio.Reader // of out
	done chan error
}

// writerTimeout bounds the life of a writer whose test hangs.
const writerTimeout = 10 * time.Minute

// writerScript binds the dataset to another path, unmounts the path that it inherited, and writes
// each line that it reads to the file "file" of the dataset.
const writerScript = `mount --bind "$0" "$1"
umount "$0"
echo $$
while read -r line; do printf %s "$line" >"$1/file"; sync -f "$1"; echo written; done`

// writer starts a process that keeps a dataset mounted after the host has unmounted it.
func (f *fixture) writer(d dataset.Dataset) *writer {
	f.Helper()
	m, at := f.mount(d.ID), f.TempDir()
	in, tell, err := os.Pipe()
	f.ok(err)
	out, said, err := os.Pipe()
	f.ok(err)
	done := make(chan error, 1)
	w := &writer{f: f, tell: tell, out: out, said: bufio.NewReader(out), done: done}
	// Not the test's context, which ends before the cleanup that ends the writer.
	ctx := context.WithoutCancel(f.ctx)
	go func() {
		_, err := (&run.System{}).Run(ctx, run.Command{
			Name: "unshare", Args: []string{"--mount", "--propagation", "private", "sh", "-ec", writerScript, m.path, at},
			Timeout: writerTimeout, Stdin: in, Stdout: said,
		})
		done <- errors.Join(err, in.Close(), said.Close())
	}()
	f.Cleanup(w.end)
	w.pid, err = strconv.Atoi(w.line())
	f.ok(err)
	m.unmount()
	return w
}

// line reads a line of the writer.
func (w *writer) line() string {
	w.f.Helper()
	text, err := w.said.ReadString('\n')
	if err != nil {
		w.f.Fatalf("the writer in another mount namespace said %q: %v", text, err)
	}
	return strings.TrimSpace(text)
}

// write has the process replace what the file holds, durably.
func (w *writer) write(content string) {
	w.f.Helper()
	_, err := w.tell.WriteString(content + "\n")
	w.f.ok(err)
	w.f.same("the writer's answer", w.line(), "written")
}

// end ends the process, and with it its mount namespace. Again: nothing.
func (w *writer) end() {
	w.f.Helper()
	if w.done == nil {
		return
	}
	done := w.done
	w.done = nil
	w.f.ok(errors.Join(w.tell.Close(), <-done, w.out.Close()))
}

// act is a call that replaces, destroys or copies the head of a dataset.
type act struct {
	name string
	call func() error
	undo func() error // makes the dataset ready for the next act; nil: it is
}

// acts are the calls of a pool that want a dataset not to be in use. Once it is not, each works after
// the one before; the last one destroys the dataset. s is a snapshot of it.
func (f *fixture) acts(d dataset.Dataset, s dataset.Snapshot) []act {
	snapshot := func(kind dataset.SnapshotKind) dataset.Snapshot {
		fresh := f.snapshot(d)
		fresh.Kind = kind
		return fresh
	}
	var list []act
	add := func(name string, call func() error) { list = append(list, act{name: name, call: call}) }
	if !f.can.InstantSnapshot { // it copies file by file
		taken, clone := snapshot(dataset.SnapshotManual), f.record()
		add("snapshot", func() error { return f.pool.Snapshot(f.ctx, taken, nil) })
		add("clone", func() error {
			_, err := f.pool.Clone(f.ctx, clone, dataset.Source{Dataset: d.ID}, nil)
			return err
		})
	}
	keep := snapshot(dataset.SnapshotRestore)
	add("restore", func() error { return f.pool.Restore(f.ctx, d.ID, s.ID, keep, nil) })
	if sharer, is := f.pool.(backends.Sharer); is && f.can.ManyHosts {
		apart := snapshot(dataset.SnapshotRestore)
		add("restore apart", func() error { return sharer.RestoreApart(f.ctx, d.ID, s.ID, apart, nil) })
	}
	if idler, is := f.pool.(backends.Idler); is {
		add("give up", func() error { return idler.Idle(f.ctx, d.ID) })
	}
	if f.can.Delta {
		list = append(list, act{
			name: "demote",
			call: func() error { return f.copier().Demote(f.ctx, d.ID, s.ID) },
			undo: func() error {
				return errors.Join(f.copier().Promote(f.ctx, d.ID, s.ID), f.pool.Commit(f.ctx, d.ID))
			},
		})
		kept := snapshot(dataset.SnapshotSuperseded)
		add("supersede", func() error { return f.copier().Supersede(f.ctx, d.ID, kept) })
	}
	add("delete", func() error { return f.pool.Delete(f.ctx, d.ID) })
	return list
}

// inUseInAnotherNamespace proves I11 on a dataset that a process of another mount namespace has
// mounted, though the host has unmounted it: nothing replaces, destroys or copies its head, the error
// names the process, and once that process has ended every call works.
func inUseInAnotherNamespace(f *fixture) {
	d := f.create()
	f.write(d.ID, "file", "old")
	s := f.take(d)
	w := f.writer(d)
	w.write("new")
	for _, a := range f.acts(d, s) {
		err := a.call()
		if !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), fmt.Sprintf("process %d ", w.pid)) {
			f.Errorf("%s: got %v, want an in_use error that names process %d", a.name, err, w.pid)
		}
	}
	w.write("newer")
	w.end()
	f.hasSnapshots(d.ID, s)
	f.holds(d.ID, "file", "newer")
	for _, a := range f.acts(d, s) {
		err := a.call()
		if err == nil && a.undo != nil {
			err = a.undo()
		}
		if err != nil {
			f.Fatalf("%s, after the process has ended: %v", a.name, err)
		}
	}
	f.absent(d.ID)
}
