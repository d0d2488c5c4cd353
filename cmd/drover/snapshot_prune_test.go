package main

import (
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
