package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/child"
	"github.com/droverhq/drover/test/cluster/witness"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) {
	os.Exit(scratch.Main(m))
}

// A writer continues after its disk was full. After it was killed, its log and its file agree.
func TestWriter(t *testing.T) {
	dir, volume := t.TempDir(), t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", volume, "tmpfs", 0, "size=8k"))
	t.Cleanup(func() { unix.Unmount(volume, unix.MNT_DETACH) })
	binary := filepath.Join(dir, "writer")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	file, log := filepath.Join(volume, "file"), filepath.Join(dir, "w1.log")
	p, err := child.Start(child.Spec{Log: filepath.Join(dir, "output"), Args: []string{
		binary, "-file", file, "-log", log, "-dataset", "d", "-node", "a", "-writer", "w1", "-epoch", "7", "-every", "100us",
	}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.End(unix.SIGKILL, time.Minute) }) // by a signal
	var failed witness.Entry
	await(t, log, func(last witness.Entry) bool { failed = last; return last.Err != "" })
	require.NoError(t, unix.Mount("tmpfs", volume, "tmpfs", unix.MS_REMOUNT, "size=8m"))
	await(t, log, func(last witness.Entry) bool { return last.Err == "" && last.Seq > failed.Seq+100 })
	require.NoError(t, p.End(unix.SIGKILL, time.Minute))

	entries, err := witness.Logs(log)
	require.NoError(t, err)
	for i, e := range entries {
		want := witness.Token{Writer: "w1", Epoch: 7, Seq: i + 1}
		if e.Token != want || e.Dataset != "d" || e.Node != "a" || e.Begin >= e.End || i > 0 && e.Begin < entries[i-1].End {
			t.Fatalf("entry %d: %+v", i, e)
		}
	}
	head, err := witness.ReadFile("d", "head", file)
	require.NoError(t, err)
	if bad := witness.Check(entries, []witness.Copy{head}, nil); len(bad) > 0 {
		t.Error(bad)
	}
	if len(head.BadLines) != 1 {
		t.Errorf("the full disk tore %q", head.BadLines)
	}
}

// await reads the log until its last entry is the expected one.
func await(t *testing.T, log string, f func(last witness.Entry) bool) {
	t.Helper()
	for limit := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		entries, err := witness.Logs(log)
		if err == nil && len(entries) > 0 && f(entries[len(entries)-1]) {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("not within a minute: %v", err)
		}
	}
}
