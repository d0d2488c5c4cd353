package btrfs

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/scratch"
)

// counted returns the subvolumes for which the quotas have a counter, by their names in sysfs.
func (f *fixture) counted() []string {
	f.Helper()
	dir, err := os.Open(f.disk)
	f.must(err)
	defer dir.Close()
	id, err := btrfsctl.UUID(dir)
	f.must(err)
	found, err := filepath.Glob(filepath.Join("/sys/fs/btrfs", id.String(), "qgroups", "0_*"))
	f.must(err)
	return found
}

func (f *fixture) raze() {
	f.Helper()
	f.must(f.Pool.(*sizedPool).RemoveStorage(f.Context()))
}

// The counters of a subvolume are removed after it was destroyed, also after a crash. Counters of others stay. The
// kernel leaves counters behind, before 6.11 always.
func TestCountsOfDeletedGo(t *testing.T) {
	for _, mode := range []string{"full", "simple"} {
		t.Run(mode, func(t *testing.T) {
			disk := scratch.Mount(t, "btrfs", 512<<20)
			scratch.Quota(t, disk, mode)
			f := fixtureAt(t, disk)
			foreign := f.subvolume(f.disk, "foreign")
			before := f.counted()
			ds, kept := dataset.Dataset{ID: uuid.New(), Size: 32 * dataset.MiB}, dataset.Snapshot{ID: uuid.New()}
			kept.Dataset = ds.ID
			_, err := f.Create(t.Context(), ds)
			f.must(err)
			f.write(ds.ID, "blocks that the snapshot has")
			f.must(os.WriteFile(filepath.Join(f.head(ds.ID), "large"), make([]byte, 1<<20), 0o600))
			f.must(f.Snapshot(t.Context(), kept, nil))
			c := dataset.Dataset{ID: uuid.New()}
			_, err = f.Clone(t.Context(), c, dataset.Source{Dataset: ds.ID, Snapshot: kept.ID}, nil)
			f.must(err)
			f.must(f.Delete(t.Context(), ds.ID))
			if got := f.read(c.ID); got != "blocks that the snapshot has" {
				t.Errorf("the clone holds %q", got)
			}
			f.reopen() // a new process knows the unfinished work
			f.must(f.Delete(t.Context(), c.ID))
			f.raze()
			if st := f.Status(t.Context()); st.Reason != "" {
				t.Errorf("the pool says %q", st.Reason)
			}
			if got := f.counted(); len(got) != len(before) {
				t.Errorf("counted are %q, want %q", got, before)
			}
			if _, err := os.Stat(foreign); err != nil {
				t.Error(err)
			}
			if left, err := os.ReadDir(filepath.Join(f.path(), notesDir)); err != nil || len(left) > 0 {
				t.Errorf("%d notes are left, %v", len(left), err)
			}
			f.settled()
		})
	}
}

// A note about a subvolume that still exists is removed, and the counter of the subvolume stays.
func TestNoteOfWhatIsThere(t *testing.T) {
	f := newFixture(t)
	c := f.stage()
	dir, err := os.Open(f.head(c.Dataset.ID))
	f.must(err)
	defer dir.Close()
	id, err := btrfsctl.ID(dir)
	f.must(err)
	p := f.Pool.(*sizedPool).Pool
	f.must(p.counters.Record(id))
	f.Status(t.Context())
	if left, err := os.ReadDir(filepath.Join(f.path(), notesDir)); err != nil || len(left) > 0 {
		t.Errorf("%d notes are left, %v", len(left), err)
	}
	if _, err := btrfsctl.Count(dir); err != nil {
		t.Error(err)
	}
}

// Removing a counter while the kernel still uses it would make all quotas inconsistent.
func TestCountsGoWithoutDoubt(t *testing.T) {
	disk := scratch.Mount(t, "btrfs", 512<<20)
	scratch.Quota(t, disk, "full")
	f := fixtureAt(t, disk)
	dir, err := os.Open(disk)
	f.must(err)
	defer dir.Close()
	for range 3 {
		ds := dataset.Dataset{ID: uuid.New(), Size: 64 * dataset.MiB}
		_, err := f.Create(t.Context(), ds)
		f.must(err)
		for i := range 2000 {
			f.must(os.WriteFile(filepath.Join(f.head(ds.ID), strconv.Itoa(i)), make([]byte, 5000), 0o600))
		}
		f.must(btrfsctl.StartCleanup(dir))
		f.must(f.Delete(t.Context(), ds.ID))
		f.must(btrfsctl.StartCleanup(dir))
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
			if st := f.Status(t.Context()); st.Reason != "" {
				t.Fatalf("the pool says %q", st.Reason)
			}
			if left, err := os.ReadDir(filepath.Join(f.path(), notesDir)); err != nil || len(left) == 0 {
				f.must(err)
				break
			}
		}
	}
}
