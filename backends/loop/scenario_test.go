package loop

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// cast is the datasets and snapshots of a scenario.
type cast struct {
	Dataset  dataset.Dataset
	Snapshot dataset.Snapshot
	Other    dataset.Dataset  // the dataset to make
	Keep     dataset.Snapshot // the snapshot to take
}

const larger = testSize + 64*dataset.MiB

// isWhole checks that a dataset can be mounted and read. Unless must is set, it may be absent.
func (f *fixture) isWhole(id uuid.UUID, want string, must bool) {
	f.Helper()
	e, err := f.Stat(f.Context(), id)
	if errors.Is(err, dataset.ErrNotFound) && !must {
		return
	}
	f.must(err)
	if e.Record == nil || e.Record.ID != id || e.Problem != "" {
		f.Errorf("entry %+v", e)
	}
	if got := f.get(id, "a"); got != want {
		f.Errorf("dataset has %q instead of %q", got, want)
	}
	f.put(id, "b", "can be written")
}

// hasSnapshot checks that a snapshot is whole. Unless must is set, it may be absent.
func (f *fixture) hasSnapshot(s dataset.Snapshot, want string, must bool) {
	f.Helper()
	e, err := f.Stat(f.Context(), s.Dataset)
	f.must(err)
	i := slices.IndexFunc(e.Snapshots, func(o dataset.Snapshot) bool { return o.ID == s.ID })
	if i < 0 {
		if must {
			f.Errorf("snapshot %s is absent", s.ID)
		}
		return
	}
	if e.Snapshots[i].Kind != s.Kind || e.Problem != "" {
		f.Errorf("entry %+v", e)
	}
	d := f.newDataset("")
	d.Size = 0
	f.clone(d, at(s))
	if got := f.get(d.ID, "a"); got != want {
		f.Errorf("snapshot has %q instead of %q", got, want)
	}
	f.must(f.Delete(f.Context(), d.ID))
}

// hasSize checks the size of a dataset's image and of the filesystem in it.
func (f *fixture) hasSize(id uuid.UUID, want dataset.Size) {
	f.Helper()
	root, unmount := f.mounted(id)
	defer unmount()
	var st syscall.Statfs_t
	f.must(syscall.Statfs(root, &st))
	if got := dataset.Size(st.Bavail) * dataset.Size(st.Bsize); got < want*97/100 || got > want*103/100 {
		f.Errorf("%s are free in a filesystem for %s", got.Human(), want)
	}
	if has, err := f.sizeOf(f.folderOf(id).Dir, headItem); err != nil || has.Image != has.ImageFor(want) {
		f.Errorf("image %+v (%v) instead of one of %d bytes", has, err, has.ImageFor(want))
	}
}

// stage makes the cast on a pool.
func (f *fixture) stage(fs string) cast {
	f.Helper()
	d := f.newDataset(fs)
	f.create(d)
	f.put(d.ID, "a", "one")
	c := cast{Dataset: d, Snapshot: f.takeSnapshot(d), Other: f.newDataset(fs), Keep: newSnapshot(d)}
	f.put(d.ID, "a", "two")
	c.Keep.Kind = dataset.SnapshotRestore
	return c
}

// settled checks that an operation left no remains.
func (f *fixture) settled() {
	f.Helper()
	_, err := f.Reap(f.Context(), func(uuid.UUID) bool { return false })
	f.must(err)
	remains := []string{"*/*/next*", "*/*/part*", "*/*/tmp-*", "templates/*.tmp", "deleting/*"}
	for _, e := range f.entries() {
		if e.Partial != nil { // it is received later
			remains = slices.DeleteFunc(remains, func(glob string) bool { return glob == "*/*/part*" })
		}
		if e.Problem != "" || e.State == backends.EntryForeign || e.State == backends.EntryDeleting {
			f.Errorf("left over: %+v", e)
		}
	}
	for _, glob := range remains {
		if left, _ := filepath.Glob(filepath.Join(f.Shelf.Path(), glob)); len(left) > 0 {
			f.Errorf("left over: %v", left)
		}
	}
}

// stepping returns a backend that calls step between two actions.
func stepping(step func(string)) backends.Kind {
	b, _ := newBackend()
	b.step = step
	return b
}

func TestMain(m *testing.M) { os.Exit(crashing.Main(m, stepping)) }

// filesystems are those on which pools are tested. In the short form, the steps of an operation crash on them in turn.
func filesystems() []string { return []string{"xfs", "btrfs"} }

// crashes returns the checks of the crash matrix in addition to the list: sizes and remains. on is the index of the
// pool's filesystem. The factory of the pool sets the fixture's T.
func crashes(f *fixture, on int) backendtest.Crashes {
	return backendtest.Crashes{
		Turn: func(_, step int) bool {
			return long.Turn(step, math.MaxInt, on, len(filesystems()), len(filesystems()))
		},
		Crash: crashing.Killed,
		Sized: func(_ backendtest.T, p backends.Pool, id uuid.UUID, done bool, sizes ...dataset.Size) {
			if done { // else the image may be larger already
				(&fixture{T: f.T, Pool: p.(*Pool)}).hasSize(id, sizes[0])
			}
		},
		CheckReaped: func(_ backendtest.T, p backends.Pool) {
			(&fixture{T: f.T, Pool: p.(*Pool)}).settled()
		},
		// little exists at the first steps, and the second attempt does everything
		RepeatedSteps: long.Rounds(2, math.MaxInt),
		Alternate:     !long.Enabled(),
		SameStreams:   true,
	}
}

// C1: kill -9 at every step of every operation leaves the state before or after it.
func TestC1KilledAtEveryStep(t *testing.T) {
	for i, fstype := range filesystems() {
		var f fixture
		crashing.Run(t, fstype, func(t *testing.T) (backends.Kind, backends.Config) {
			f.T = t
			b, _ := newBackend()
			return b, backends.Config{Name: "test", Path: filepath.Join(scratch.Mount(t, fstype, 1<<30), "pool")}
		}, crashes(&f, i))
	}
}

// I2: a power cut at every step leaves the state before or after the operation, and everything that was acknowledged
// is there. So does a power cut after an operation that was interrupted and repeated.
func TestI2PowerCutAtEveryStep(t *testing.T) {
	for i, fstype := range filesystems() {
		var f fixture
		crashing.PowerCuts(t, fstype, func(disk string, step func()) backends.Kind {
			b := stepping(func(name string) {
				if name == "loop.receive.flushed" {
					// Another file causes the journal to be written, and with it all names.
					f.write(filepath.Join(disk, "other"), name)
				}
				step()
			}).(*Backend)
			b.tuning.Ahead = false
			return b
		}, crashes(&f, i), func(t *testing.T, _ string) { f.T = t })
	}
}

// The name of each step says which operation it belongs to.
func TestStepNames(t *testing.T) {
	f := newFixture(t, "xfs")
	f.backend.step = func(name string) {
		if !strings.HasPrefix(name, "loop.") || strings.Count(name, ".") != 2 {
			t.Errorf("step %q", name)
		}
	}
	f.stage(xfs)
}
