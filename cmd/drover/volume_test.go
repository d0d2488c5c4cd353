package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/cmd/drover/internal/ptytest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// TestExportToFile: the file has the archive when it is complete. A failed export leaves no file, and no file is
// replaced.
func TestExportToFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db.tar")
	failed := newConsole(&fake{data: "tar", fail: map[string]error{"Export": dataset.Errorf(dataset.ErrOffline, "away")}})
	if code := failed.run(t, "volume", "export", "db", "-o", file); code != 1 {
		t.Errorf("exit %d, %s", code, failed.err.String())
	}
	if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) > 0 {
		t.Errorf("a failed export left %v, %v", left, err)
	}
	con := newConsole(&fake{data: "tar"})
	code := con.run(t, "volume", "export", "db", "--output", file)
	b, err := os.ReadFile(file)
	if want := "exported volume db to " + file + ": 3B\n"; code != 0 || err != nil || string(b) != "tar" || con.out.String() != want {
		t.Errorf("exit %d, out %q, err %q, file %q, %v", code, con.out.String(), con.err.String(), b, err)
	}
	again := newConsole(&fake{data: "other"})
	if code := again.run(t, "volume", "export", "db", "-o", file); code != 1 ||
		!strings.Contains(again.err.String(), "exists: a new export overwrites nothing (choose another name)") {
		t.Errorf("exit %d, %s", code, again.err.String())
	}
	if code := con.run(t, "volume", "export", "db", "-o", "-"); code != 0 || !strings.HasSuffix(con.out.String(), "tar") {
		t.Errorf("to standard output: exit %d, out %q", code, con.out.String())
	}
	if code := con.run(t, "volume", "export", "db", "-o", "db.tar.gz"); code != 2 ||
		!strings.Contains(con.err.String(), "drover volume export db | gzip > db.tar.gz") {
		t.Errorf("exit %d, %s", code, con.err.String())
	}
}

// TestImportFromArchive: the name of a tar archive of this host is enough, and the archive is sent as with --from -.
func TestImportFromArchive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db.tar")
	require.NoError(t, os.WriteFile(file, []byte("tar"), 0o600))
	f := theWorld()
	con := newConsole(f)
	code := con.run(t, "volume", "import", "db@gold", "--from", file)
	if code != 0 || len(f.asked) != 1 || !strings.Contains(f.asked[0], `"db@gold"} "3 bytes"`) {
		t.Errorf("exit %d, requests %q, err %q", code, f.asked, con.err.String())
	}
	if code := con.run(t, "volume", "import", "db@gold", "--from", file, "--detach"); code != 2 {
		t.Errorf("a detached import of an archive: exit %d", code)
	}
}

// TestVolumeStatsWatch repeats the table until the command is interrupted. The second table needs only one more
// reading.
func TestVolumeStatsWatch(t *testing.T) {
	c := newConsole(theWorld())
	sleeps := 0
	c.Sleep = func(context.Context, time.Duration) error {
		if sleeps++; sleeps > 3 {
			return errors.New("interrupted")
		}
		return nil
	}
	if code := c.run(t, "volume", "stats", "--watch"); code != 1 || !strings.Contains(c.err.String(), "interrupted") {
		t.Errorf("exit %d, %q", code, c.err.String())
	}
	if n := strings.Count(c.out.String(), "64         1MiB"); n != 3 || c.fake.ioReadings != 4 {
		t.Errorf("%d tables of %d readings:\n%s", n, c.fake.ioReadings, c.out.String())
	}
}

// A relative path for a new pool is refused, even on the server's host. The error contains the absolute path.
func TestPoolIsMadeAtNoRelativePath(t *testing.T) {
	would, err := filepath.Abs("drover-pool")
	require.NoError(t, err)
	for _, flag := range []string{"path", "device"} {
		c := newConsole(theWorld())
		if code := c.run(t, "pool", "create", "fast", "--backend", "loop", "--"+flag, "drover-pool"); code == 0 {
			t.Errorf("--%s: exit %d", flag, code)
		}
		if want := ": --" + flag + " " + would + "\n"; !strings.HasSuffix(c.err.String(), want) {
			t.Errorf("--%s: %q, want %q at its end", flag, c.err.String(), want)
		}
	}
}

// pruneWorld has snapshots of db of each kind. All are 40 days old, except the manual ones.
func pruneWorld() *fake {
	const day = 24 * time.Hour
	f := theWorld()
	f.snapshots = []dataset.Snapshot{
		snapshot(1, "spring", "", 40*day), snapshot(2, "summer", "", 20*day), snapshot(3, "", "", 5*day),
		snapshot(4, "now", "", time.Hour),
	}
	for i, kind := range []dataset.SnapshotKind{
		dataset.SnapshotScheduled, dataset.SnapshotRestore, dataset.SnapshotSuperseded, dataset.SnapshotImplicit,
		dataset.SnapshotTransfer,
	} {
		s := snapshot(byte(5+i), "", "", 40*day)
		s.Kind = kind
		f.snapshots = append(f.snapshots, s)
	}
	op := ended(dataset.OpDone, nil).op
	op.Kind, op.Snapshot = dataset.OpSnapshotDelete, &f.snapshots[0]
	f.outcome = api.Outcome{Operation: &op}
	return f
}

var prunedRE = regexp.MustCompile(`"snapshot":"5(\d)`)

// pruned returns the digits of the snapshots whose deletion was requested.
func pruned(f *fake) (digits string) {
	for _, line := range f.asked {
		if m := prunedRE.FindStringSubmatch(line); m != nil && !onlyAsks(line) {
			digits += m[1]
		}
	}
	return digits
}

// TestPruneAsks: the command lists the snapshots, and accepts only the word prune.
func TestPruneAsks(t *testing.T) {
	for typed, want := range map[string]string{"prune": "12", "db": "", "y": "", "": ""} {
		f := pruneWorld()
		c := newConsole(f)
		screen := ptytest.Open(t)
		screen.Type(t, typed+"\n")
		c.In = screen.File
		code := c.run(t, "snapshot", "rm", "db", "--older-than", "10d")
		if (code == 0) != (want != "") || pruned(f) != want {
			t.Errorf("typed %q: exit %d, deleted %q, want %q", typed, code, pruned(f), want)
		}
		const asked = "prune 2 manual snapshots:\n  - deletes snapshot spring (51000000-0000-4000-8000-000000000001) of db " +
			"for good, taken 2026-01-20 12:00:00\n"
		if d := cmp.Diff(asked, c.err.String()[:min(len(asked), c.err.Len())]); d != "" {
			t.Errorf("typed %q (-want +got):\n%s", typed, d)
		}
	}
}
