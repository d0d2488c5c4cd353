package backendtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/require"
)

// writer is a process that can write to a dataset that the host has unmounted.
type writer struct {
	f     *fixture
	pid   int
	stdin *os.File
	out   *os.File
	lines *bufio.Reader // of out
	done  chan error
}

// writerTimeout bounds the life of a writer whose test hangs.
const writerTimeout = 10 * time.Minute

// writerScript binds the dataset to another path, unmounts the path that it inherited, and writes
// each line that it reads to the file "file" of the dataset.
const writerScript = `mount --bind "$0" "$1"
umount "$0"
echo $$
while read -r line; do printf %s "$line" >"$1/file"; sync -f "$1"; echo written; done`

// hiddenWriters are programs of processes that can write to a dataset that no mount namespace shows. The arguments of
// each are the path of the dataset, another path, and the PID of this process. They write each line that they read to
// the file "file" of the dataset.
var hiddenWriters = []struct {
	name    string
	command []string
}{
	{"with a file that was handed to a process of the host", append(slices.Clone(inNamespace), `mount --bind "$0" "$1"
umount "$0"
exec 3<>"$1/file"
exec nsenter --mount="/proc/$2/ns/mnt" sh -ec 'echo $$
while read -r line; do printf %s "$line" >/proc/self/fd/3; sync -f /proc/self/fd/3; echo written; done'`)},
	{"with a file on a detached mount", []string{"sh", "-ec", `mount --bind "$0" "$1"
exec 3<>"$1/file"
umount -l "$1"
echo $$
while read -r line; do printf %s "$line" >/proc/self/fd/3; sync -f /proc/self/fd/3; echo written; done`}},
	{"with a working directory on a detached mount", []string{"sh", "-ec", `mount --bind "$0" "$1"
cd "$1"
umount -l "$1"
echo $$
while read -r line; do printf %s "$line" >file; sync -f file; echo written; done`}},
}

// inNamespace is a command that runs a shell script in a separate mount namespace.
var inNamespace = []string{"unshare", "--mount", "--propagation", "private", "sh", "-ec"}

// writer starts a process that can write to a dataset after the host has unmounted it.
func (f *fixture) writer(d dataset.Dataset, command []string) *writer {
	f.Helper()
	m, at := f.Mount(d.ID), f.TempDir()
	in, input, err := os.Pipe()
	f.OK(err)
	out, output, err := os.Pipe()
	f.OK(err)
	done := make(chan error, 1)
	w := &writer{f: f, stdin: input, out: out, lines: bufio.NewReader(out), done: done}
	args := append(slices.Clone(command[1:]), m.Path, at, strconv.Itoa(os.Getpid()))
	// Not the test's context, which ends before the cleanup that ends the writer.
	ctx := context.WithoutCancel(f.Ctx)
	go func() {
		_, err := (&run.System{}).Run(ctx, run.Command{
			Name: command[0], Args: args, Timeout: writerTimeout, Stdin: in, Stdout: output,
		})
		done <- errors.Join(err, in.Close(), output.Close())
	}()
	f.Cleanup(w.end)
	w.pid, err = strconv.Atoi(w.line())
	f.OK(err)
	m.Unmount()
	return w
}

// line reads a line of the writer.
func (w *writer) line() string {
	w.f.Helper()
	text, err := w.lines.ReadString('\n')
	require.NoErrorf(w.f, err, "the writer wrote %q", text)
	return strings.TrimSpace(text)
}

// write has the process replace the content of the file durably.
func (w *writer) write(content string) {
	w.f.Helper()
	_, err := w.stdin.WriteString(content + "\n")
	w.f.OK(err)
	w.f.Same("the writer's response", w.line(), "written")
}

// end ends the process, and with it its mount namespace. Idempotent.
func (w *writer) end() {
	w.f.Helper()
	if w.done == nil {
		return
	}
	done := w.done
	w.done = nil
	w.f.OK(errors.Join(w.stdin.Close(), <-done, w.out.Close()))
}

// refusedCall is a call that replaces, destroys or copies the head of a dataset, and must fail while the dataset is in
// use.
type refusedCall struct {
	name string
	call func() error
	undo func() error // makes the dataset ready for the next call; nil if nothing has to be undone
}

// refusedCalls returns the calls of a pool that fail while a dataset is in use. If the dataset is not in use, the calls
// succeed in the returned order. The last one destroys the dataset. s is a snapshot of the dataset.
func (f *fixture) refusedCalls(d dataset.Dataset, s dataset.Snapshot) []refusedCall {
	snapshot := func(kind dataset.SnapshotKind) dataset.Snapshot {
		fresh := f.NewSnapshot(d)
		fresh.Kind = kind
		return fresh
	}
	var list []refusedCall
	add := func(name string, call func() error) { list = append(list, refusedCall{name: name, call: call}) }
	if !f.Can.InstantSnapshot { // Snapshot and Clone copy file by file
		taken, clone := snapshot(dataset.SnapshotManual), f.Record()
		add("snapshot", func() error { return f.Pool.Snapshot(f.Ctx, taken, nil) })
		add("clone", func() error {
			_, err := f.Pool.Clone(f.Ctx, clone, dataset.Source{Dataset: d.ID}, nil)
			return err
		})
	}
	keep := snapshot(dataset.SnapshotRestore)
	add("restore", func() error { return f.Pool.Restore(f.Ctx, d.ID, s.ID, keep, nil) })
	if sharer, is := f.Pool.(backends.Sharer); is && f.Can.ManyHosts {
		keptByCopy := snapshot(dataset.SnapshotRestore)
		add("restore with a copy", func() error { return sharer.RestoreByCopy(f.Ctx, d.ID, s.ID, keptByCopy, nil) })
	}
	if idler, is := f.Pool.(backends.IdleChecker); is {
		add("relinquish", func() error { return idler.CheckIdle(f.Ctx, d.ID) })
	}
	if f.Can.Delta {
		list = append(list, refusedCall{
			name: "demote",
			call: func() error { return f.Copier().Demote(f.Ctx, d.ID, s.ID) },
			undo: func() error {
				return errors.Join(f.Copier().Promote(f.Ctx, d.ID, s.ID), f.Pool.Commit(f.Ctx, d.ID))
			},
		})
		kept := snapshot(dataset.SnapshotSuperseded)
		add("supersede", func() error { return f.Copier().Supersede(f.Ctx, d.ID, kept) })
	}
	add("delete", func() error { return f.Pool.Delete(f.Ctx, d.ID) })
	return list
}

// refusedCallsNamed returns the refused calls with these names, or all if there are no names.
func (f *fixture) refusedCallsNamed(d dataset.Dataset, s dataset.Snapshot, names []string) []refusedCall {
	return slices.DeleteFunc(f.refusedCalls(d, s), func(
		a refusedCall) bool {
		return len(names) > 0 && !slices.Contains(names, a.name)
	})
}

// inUseInAnotherNamespace proves invariant I11 (docs/invariants.md) on a dataset that a process of another mount
// namespace has mounted, although the host has unmounted it. inUseWithoutMount tries the other calls, except on zfs.
func inUseInAnotherNamespace(f *fixture) {
	callNames := []string{"restore", "delete"}
	if f.Kind.Name() == "zfs" {
		callNames = nil
	}
	f.inUseBy("a process of another mount namespace", append(slices.Clone(inNamespace), writerScript), callNames...)
}

// inUseWithoutMount proves I11 on a dataset that no mount namespace shows, and that a process can write to: see
// hiddenWriters. All calls of a pool have the same check, and a pool takes half a second to refuse a call. So the first
// hidden writer shows that each call checks, and the others what the check finds. On zfs this is a known hole (I11 in
// docs/invariants.md): without a mount, the device number of the filesystem is unknown.
func inUseWithoutMount(f *fixture) {
	if f.Kind.Name() == "zfs" {
		return
	}
	var callNames []string
	for _, w := range hiddenWriters {
		f.inUseBy("a process "+w.name, w.command, callNames...)
		callNames = []string{"delete"}
	}
}

// inUseBy creates a dataset, and starts the command, whose process can write to the dataset. It checks that the calls
// that replace, destroy or copy the head fail, and that each error names the process. Once the process has ended, every
// call must succeed. callNames names the calls to try; if it is empty, all are tried. who describes the process in
// failures.
func (f *fixture) inUseBy(who string, command []string, callNames ...string) {
	f.Helper()
	d := f.Create()
	f.Write(d.ID, "file", "old")
	s := f.TakeSnapshot(d)
	w := f.writer(d, command)
	w.write("new")
	for _, a := range f.refusedCallsNamed(d, s, callNames) {
		err := a.call()
		if !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), fmt.Sprintf("process %d ", w.pid)) {
			f.Errorf("%s while it is used by %s: got %v, want an in_use error that names process %d", a.name, who,
				err, w.pid)
		}
	}
	w.write("newer")
	w.end()
	f.CheckSnapshots(d.ID, s)
	f.CheckContent(d.ID, "file", "newer")
	for _, a := range f.refusedCallsNamed(d, s, callNames) {
		err := a.call()
		if err == nil && a.undo != nil {
			err = a.undo()
		}
		require.NoErrorf(f, err, "%s after %s ended", a.name, who)
	}
	f.CheckAbsent(d.ID)
}
