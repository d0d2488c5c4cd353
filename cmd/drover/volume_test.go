package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/cmd/drover/internal/ptytest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// An export succeeds if the archive lacks the sockets of the volume. One line reports the missing sockets, whatever
// their names are.
func TestExportSaysWhatItLacks(t *testing.T) {
	for name, c := range map[string]struct {
		lacks api.OmittedFiles
		want  string
	}{
		"nothing": {},
		"one": {api.OmittedFiles{Count: 1, First: []string{"mysql.sock"}}, "drover: 1 socket was left out of the " +
			"archive, because tar does not support sockets: mysql.sock\n"},
		"many": {api.OmittedFiles{Count: 5, First: []string{"a", "b\n\x1b[2J", "c"}},
			`drover: 5 sockets were left out of the archive, because tar does not support sockets: a, b\n\x1b[2J, c and 2 more
`},
	} {
		t.Run(name, func(t *testing.T) {
			con := newConsole(&fake{data: "tar", leftOut: c.lacks})
			code := con.run(t, "volume", "export", "db")
			if code != 0 || con.err.String() != c.want || !strings.HasPrefix(con.out.String(), "tar") {
				t.Errorf("exit %d, out %q, err %q; want %q", code, con.out.String(), con.err.String(), c.want)
			}
		})
	}
}

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
	if err := os.WriteFile(file, []byte("tar"), 0o600); err != nil {
		t.Fatal(err)
	}
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
	if err != nil {
		t.Fatal(err)
	}
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

// TestPruneChooses: without --kind only manual snapshots are deleted: not those that a restore, a schedule, a replica
// or a clone keeps.
func TestPruneChooses(t *testing.T) {
	for flags, want := range map[string]string{
		"--older-than 3d":                      "123",
		"--older-than 30d":                     "1",
		"--older-than 0s":                      "1234",
		"--older-than 3d --keep 1":             "123",
		"--older-than 3d --keep 2":             "12",
		"--older-than 3d --keep 9":             "",
		"--keep 1":                             "123",
		"--keep 9":                             "",
		"--older-than 3d --kind manual":        "123",
		"--older-than 3d --kind restore":       "6",
		"--older-than 3d --kind scheduled":     "5",
		"--older-than 50d":                     "",
		"--older-than 3d --dry-run":            "",
		"--older-than 3d db f23ca986 --keep 2": "12",
	} {
		f := pruneWorld()
		c := newConsole(f)
		args := append([]string{"snapshot", "rm", "db", "--yes"}, strings.Fields(flags)...)
		if code := c.run(t, args...); code != 0 || pruned(f) != want {
			t.Errorf("%s: exit %d, deleted %q, want %q: %s%s", flags, code, pruned(f), want, c.out.String(), c.err.String())
		}
	}
}

func TestPruneRefuses(t *testing.T) {
	for flags, want := range map[string]string{
		"db --keep 0":                              "missing flag: --older-than AGE, such as --older-than 30d, or --keep N",
		"db --keep 1":                              "this requires confirmation",
		"db --older-than soon":                     "bad duration",
		"db --older-than 3d --kind superseded":     "unknown kind",
		"db --older-than 3d --kind transfer":       "unknown kind",
		"db --older-than 3d --kind implicit":       "unknown kind",
		"db --older-than 3d --keep -1":             "--keep",
		"nope --older-than 3d --yes":               "no such volume",
		"db nope --older-than 3d --yes":            "no such volume",
		"db --older-than 3d":                       "this requires confirmation",
		"--older-than 3d":                          "missing argument: [VOLUME]",
		"db --older-than 3d --kind schedule --yes": "did you mean scheduled?",
	} {
		f := pruneWorld()
		c := newConsole(f)
		code := c.run(t, append([]string{"snapshot", "rm"}, strings.Fields(flags)...)...)
		if code == 0 || !strings.Contains(c.err.String(), want) || slices.ContainsFunc(f.asked, func(line string) bool {
			return !onlyAsks(line)
		}) {
			t.Errorf("%s: exit %d, asked %v: %s", flags, code, f.asked, c.err.String())
		}
	}
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

// says runs a command and fails unless its output and exit code are as wanted.
func says(t *testing.T, f *fake, words string, code int, want string) string {
	t.Helper()
	c := newConsole(f)
	got := c.run(t, strings.Fields(words)...)
	if out := c.out.String() + c.err.String(); got != code || !strings.Contains(out, want) {
		t.Errorf("drover %s: exit %d, %s, want %d and %q", words, got, out, code, want)
	}
	return c.out.String()
}

// TestResizeBy: +SIZE adds to the present size.
func TestResizeBy(t *testing.T) {
	for words, size := range map[string]string{
		"volume resize db +1GiB": "21GiB", "volume resize db +64M": "20544MiB",
	} {
		f := theWorld()
		works(f, ended(dataset.OpDone, nil))
		says(t, f, words, 0, "volume db has")
		if asked := strings.Join(f.asked, "\n"); !strings.Contains(asked, `"size":"`+size+`"`) {
			t.Errorf("drover %s: %s, want %s", words, asked, size)
		}
	}
	f := theWorld()
	says(t, f, "volume resize db-test +1GiB", 2, "volume db-test has no size limit")
	if len(f.asked) > 0 {
		t.Errorf("%v", f.asked)
	}
}

// TestInspectSeveral: inspect shows all the items that it is given, as JSON in a list.
func TestInspectSeveral(t *testing.T) {
	says(t, theWorld(), "volume inspect db db-test", 0, "db-test@snapshot-5100")
	says(t, theWorld(), "pool inspect default plain", 0, "/srv/plain")
	says(t, theWorld(), "volume inspect db nosuch", 1, `no such volume: "nosuch"`)
	var list []api.Volume
	out := says(t, theWorld(), "volume inspect db db-test -o json", 0, "")
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 2 {
		t.Errorf("%v: %s", err, out)
	}
}

// TestOperationShowsItsRequest: inspect shows the ID with which all logs can be searched.
func TestOperationShowsItsRequest(t *testing.T) {
	f := theWorld()
	f.operations[0].RequestID = "4f1d0a7c2b9e"
	works(f, answer{op: f.operations[0]})
	f.progress = []answer{{op: f.operations[0]}}
	says(t, f, "operation inspect "+idOp.String(), 0, "4f1d0a7c2b9e")
}

// TestDeletedSnapshot: the error about a snapshot says that it was deleted, if a recent operation did that.
func TestDeletedSnapshot(t *testing.T) {
	f := theWorld()
	s := snapshot(9, "first", "", time.Hour)
	f.operations = append(f.operations, dataset.Operation{
		ID: idBare, Kind: dataset.OpSnapshotDelete, State: dataset.OpDone, Volume: "db", Snapshot: &s, Ended: now.Add(-time.Minute),
	})
	want := "snapshot " + s.ID.String() + " of volume db was deleted about a minute ago, by operation " + idBare.String()
	for _, words := range []string{"snapshot inspect db first", "snapshot show db@first", "snapshot inspect --volume db first", "snapshot inspect " + s.ID.String()[:8]} {
		says(t, f, words, 1, want)
	}
	c := newConsole(f)
	if c.run(t, "snapshot", "inspect", "db", "other"); strings.Contains(c.err.String(), "was deleted") {
		t.Error(c.err.String())
	}
	f.fail = map[string]error{"Submit": dataset.Errorf(dataset.ErrInvalid, "volume db has profile gold, not first")}
	says(t, f, "volume rm db@first", 2, "; to delete only a snapshot of that name: drover snapshot rm --dry-run db first")
}
