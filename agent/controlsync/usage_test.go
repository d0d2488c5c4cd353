package controlsync

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
)

// The figures are the same as those of df, which do not count the blocks that are reserved for root.
func TestUsageOfFilesystem(t *testing.T) {
	for name, c := range map[string]struct {
		fs   unix.Statfs_t
		want dataset.Usage
		use  int
	}{
		"half":    {unix.Statfs_t{Frsize: 4096, Blocks: 100, Bfree: 50, Bavail: 50}, dataset.Usage{Used: 204800, Available: 204800}, 50},
		"reserve": {unix.Statfs_t{Frsize: 4096, Blocks: 100, Bfree: 5}, dataset.Usage{Used: 389120}, 100},
		"inodes": {
			unix.Statfs_t{Frsize: 1024, Blocks: 100, Bfree: 100, Bavail: 100, Files: 64, Ffree: 61},
			dataset.Usage{Available: 102400, Inodes: 64, InodesUsed: 3}, 0,
		},
		"16TiB": {unix.Statfs_t{Frsize: 4096, Blocks: 1 << 32, Bfree: 1 << 30, Bavail: 1 << 30}, dataset.Usage{
			Used: 12 * dataset.TiB, Available: 4 * dataset.TiB,
		}, 75},
		"nothing": {},
	} {
		if got := usageOf(c.fs); got != c.want || got.Percent() != c.use {
			t.Errorf("%s: %+v, %d%%, want %+v, %d%%", name, got, got.Percent(), c.want, c.use)
		}
	}
}

// TestUsageOfUnmountedVolume: an unmounted volume is as full as its filesystem was, until something changes it.
func TestUsageOfUnmountedVolume(t *testing.T) {
	var u usages
	d := dataset.Dataset{ID: uuid.New(), Size: 100, Request: uuid.New()}
	used := func(percent int) *dataset.Usage {
		return &dataset.Usage{Used: dataset.Size(percent), Available: dataset.Size(100 - percent)}
	}
	check := func(what string, usage *dataset.Usage, want int, state dataset.Fullness) {
		t.Helper()
		got, is := u.note(d, usage)
		if want < 0 && got != nil || want >= 0 && (got == nil || got.Percent() != want) || is != state {
			t.Errorf("%s: %+v, %q, want %d%%, %q", what, got, is, want, state)
		}
	}
	check("never mounted", nil, -1, dataset.NotFull)
	check("mounted", used(98), 98, dataset.Full)
	check("unmounted", nil, 98, dataset.Full)
	d.Request = uuid.New()
	check("a snapshot was taken", nil, 98, dataset.Full)
	u.forget(d.ID)
	check("restored", nil, -1, dataset.NotFull)
	check("restored and mounted", used(90), 90, dataset.NearlyFull)
	check("some files removed", used(84), 84, dataset.NearlyFull) // within the margin
	d.Profile.WarnAt = 90
	check("another threshold", used(84), 84, dataset.NotFull)
	d.Profile.WarnAt, d.Size = 0, 0
	check("no size", used(99), 99, dataset.NotFull)
	if u.forget(d.ID); len(u.last) != 0 {
		t.Error("a volume that is no longer here is remembered")
	}
}

// TestUsageIsSaved: each change that a user can see is written once, and repeated after a failed write.
func TestUsageIsSaved(t *testing.T) {
	var u usages
	d := dataset.Dataset{ID: uuid.New(), Size: 1000, Request: uuid.New()}
	note := func(used dataset.Size) { u.note(d, &dataset.Usage{Used: used, Available: d.Size - used}) }
	unsaved := func(what string, want int) (restore func()) {
		t.Helper()
		values, restore := u.takeUnsaved()
		if len(values) != want {
			t.Errorf("%s: %d values, want %d", what, len(values), want)
		}
		return restore
	}
	unsaved("nothing noted", 0)
	note(500)
	unsaved("noted", 1)()
	unsaved("after a failed write", 1)
	note(499)
	unsaved("less than a percent", 0)
	note(990)
	unsaved("full", 1)
	kept := u.last[d.ID]

	var next usages
	next.load(d.ID, kept, true)
	if got, is := next.note(d, nil); got == nil || got.Percent() != 99 || is != dataset.Full {
		t.Errorf("after a restart: %+v, %q, want 99%%, FULL", got, is)
	}
	u.forget(d.ID)
	unsaved("removed", 1)()
	unsaved("after a failed write", 1)
	unsaved("removed for good", 0)
	var other usages
	other.load(d.ID, kept, false)
	if values, _ := other.takeUnsaved(); len(values) != 1 {
		t.Errorf("the record of a dataset that is not here stays: %v", values)
	}
}

// A volume can be unmounted between two system calls. The figures of the filesystem below the mount point are not its
// own.
func TestUsageOnlyOfMountPoint(t *testing.T) {
	at := scratch.Mount(t, "ext4", scratch.Ext4)
	if usage := statfs(at); usage == nil || usage.Available == 0 {
		t.Errorf("a mount point: %+v, want its usage", usage)
	}
	inside := filepath.Join(at, "inside")
	if err := os.Mkdir(inside, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", inside, filepath.Join(at, "absent")} {
		if usage := statfs(path); usage != nil {
			t.Errorf("%q: %+v, want no usage", path, usage)
		}
	}
}
