package btrfs

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/backendtest/crashing"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/internal/scratch"
)

const (
	little = 64 * dataset.MiB
	more   = 96 * dataset.MiB
)

// cast has the datasets and snapshots of a scenario: a dataset with the content "new", its snapshot with the content
// "old", and those that the operation makes.
type cast struct {
	Dataset, Other dataset.Dataset
	Snapshot, Keep dataset.Snapshot
}

func (f *fixture) stage() cast {
	f.Helper()
	c := cast{
		Dataset: dataset.Dataset{ID: uuid.New(), Size: little},
		Other:   dataset.Dataset{ID: uuid.New(), Size: more},
	}
	c.Snapshot = dataset.Snapshot{ID: uuid.New(), Dataset: c.Dataset.ID}
	c.Keep = dataset.Snapshot{ID: uuid.New(), Dataset: c.Dataset.ID}
	_, err := f.Create(f.Context(), c.Dataset)
	f.must(err)
	f.must(f.Pool.Commit(f.Context(), c.Dataset.ID))
	f.write(c.Dataset.ID, "old")
	f.must(f.Snapshot(f.Context(), c.Snapshot, nil))
	f.write(c.Dataset.ID, "new")
	return c
}

// has reports whether a dataset has a snapshot.
func (f *fixture) has(ds, snapshot uuid.UUID) bool {
	f.Helper()
	e, err := f.Stat(f.Context(), ds)
	f.must(err)
	for _, s := range e.Snapshots {
		if s.ID == snapshot {
			return true
		}
	}
	return false
}

func stepping(step func(string)) backends.Kind {
	b := New()
	b.step = step
	return b
}

func TestMain(m *testing.M) { os.Exit(crashing.Main(m, stepping)) }

// crashes returns the checks of the crash matrix on a btrfs in addition to the list.
func crashes() backendtest.Crashes {
	return backendtest.Crashes{
		Crash: crashing.Killed,
		Sized: func(t backendtest.T, p backends.Pool, id uuid.UUID, _ bool, sizes ...dataset.Size) {
			t.Helper()
			if got := limitOf(t, p, id); !slices.Contains(sizes, got) {
				t.Errorf("the limit is %s, want one of %v", got, sizes)
			}
		},
		CheckReaped: onlyKnownTrees,
		Alternate:   !long.Enabled(),
	}
}

// C1: kill -9 at every step of every operation leaves the state before or after it.
func TestC1KilledAtEveryStep(t *testing.T) {
	crashing.Run(t, "full", func(t *testing.T) (backends.Kind, backends.Config) {
		disk := scratch.Mount(t, "btrfs", 1<<30)
		scratch.Quota(t, disk, "full")
		return New(), backends.Config{Name: "test", Path: filepath.Join(disk, "pool")}
	}, crashes())
}

// I2: a power cut at every step leaves the state before or after the operation, and what was acknowledged is there.
func TestI2PowerCutAtEveryStep(t *testing.T) {
	crashing.PowerCuts(t, "btrfs", func(_ string, step func()) backends.Kind {
		return stepping(func(string) { step() })
	}, crashes(), func(t *testing.T, disk string) {
		copies := []string{
			"receive", "promote", "promote_the_last", "promote_another", "commit_a_copy",
			"demote", "demote_what_was_restored", "supersede",
		}
		if slices.Contains(copies, path.Base(t.Name())) {
			long.Only(t)
		}
		scratch.Quota(t, disk, "full")
	})
}

// A head is on the disk before the record that names it. No other flush in between writes the head by accident.
func TestHeadIsCommittedBeforeItsRecord(t *testing.T) {
	image := scratch.Image(t, "btrfs", 1<<30)
	f := fixtureAt(t, scratch.MountImage(t, "btrfs", image))
	scratch.Run(t, "sync", "-f", f.disk)
	copied := filepath.Join(t.TempDir(), "copy")
	f.backend.step = func(step string) {
		if step == "btrfs.make.settled" {
			scratch.Copy(t, image, copied)
		}
	}
	f.reopen()
	d := dataset.Dataset{ID: uuid.New(), Profile: dataset.Profile{Owner: &dataset.Owner{UID: 70, GID: 71}}}
	_, err := f.Create(t.Context(), d)
	f.must(err)
	info, err := os.Stat(
		filepath.Join(scratch.MountImage(t, "btrfs", copied), "pool", "incoming", d.ID.String(), "head"))
	f.must(err)
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 70 || st.Gid != 71 || st.Ino != 256 {
		t.Errorf("on the disk it is %d, of %d:%d", st.Ino, st.Uid, st.Gid)
	}
}
