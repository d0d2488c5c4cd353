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

// The figures are those of df, which do not count blocks that are reserved for root.
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

// An unmounted volume is as full as its filesystem was, until something changes it.
func TestUsageOfUnmountedVolume(t *testing.T) {
	var u usages
	d := dataset.Dataset{ID: uuid.New(), Size: 100, Request: uuid.New()}
	used := func(percent int) *dataset.Usage {
		return &dataset.Usage{Used: dataset.Size(percent), Available: dataset.Size(100 - percent)}
	}
	check := func(what string, usage *dataset.Usage, exact bool, want int, state dataset.Fullness) {
		t.Helper()
		got, is := u.note(d, usage, exact)
		if want < 0 && got != nil || want >= 0 && (got == nil || got.Percent() != want) || is != state {
			t.Errorf("%s: %+v, %q, want %d%%, %q", what, got, is, want, state)
		}
	}
	check("unknown", nil, false, -1, dataset.NotFull)
	check("the pool's estimate", used(100), false, 100, dataset.NotFull)
	check("mounted", used(98), true, 98, dataset.Full)
	check("unmounted", used(20), false, 98, dataset.Full)
	check("the disk does not answer", nil, false, 98, dataset.Full)
	d.Request = uuid.New()
	check("restored", used(99), false, 99, dataset.NotFull)
	check("restored and mounted", used(90), true, 90, dataset.NearlyFull)
	check("some files removed", used(84), true, 84, dataset.NearlyFull) // the margin
	d.Profile.WarnAt = 90
	check("another threshold", used(84), true, 84, dataset.NotFull)
	d.Profile.WarnAt, d.Size = 0, 0
	check("no size", used(99), true, 99, dataset.NotFull)
	if u.forget(d.ID); len(u.last) != 0 {
		t.Error("a volume that is no longer here is remembered")
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
