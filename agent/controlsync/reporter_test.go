package controlsync

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// The data of an idle volume is looked for within a minute.
func TestDamageIsFoundWithinAMinute(t *testing.T) {
	const heartbeat = 10 * time.Second // by default
	r, ids := rotation{rounds: damageRounds}, make([]uuid.UUID, 2000)
	seen := 0
	for range time.Minute / heartbeat {
		seen += len(r.next(func() []uuid.UUID { return ids }))
	}
	if seen < len(ids) {
		t.Errorf("%d of %d were examined", seen, len(ids))
	}
}

// Within one cycle of rounds each dataset has exactly one turn. Then the next cycle begins.
func TestRota(t *testing.T) {
	for _, n := range []int{0, 1, examineRounds, examineRounds + 1, 2000} {
		ids := make([]uuid.UUID, n)
		for i := range ids {
			ids[i] = uuid.New()
		}
		r := rotation{rounds: examineRounds}
		for range 2 {
			seen := map[uuid.UUID]bool{}
			for rounds := 0; len(seen) < n; rounds++ {
				if rounds == examineRounds {
					t.Fatalf("of %d only %d had their turn", n, len(seen))
				}
				for _, id := range r.next(func() []uuid.UUID { return ids }) {
					if seen[id] {
						t.Fatalf("of %d one has two turns", n)
					}
					seen[id] = true
				}
			}
		}
	}
}

// TestSilentReplicaIsNamed: doctor names a control replica until it answers again, also with an error.
func TestSilentReplicaIsNamed(t *testing.T) {
	gone := dataset.Errorf(dataset.ErrUnavailable, "connection refused")
	for name, c := range map[string]struct {
		replicas int
		answers  []error // of the replica that is asked last
		want     int
	}{
		"never asked":       {2, nil, 0},
		"silent":            {2, []error{gone, gone}, 1},
		"answers again":     {2, []error{gone, nil}, 0},
		"answers a refusal": {2, []error{gone, dataset.Errorf(dataset.ErrConflict, "a full report is needed")}, 0},
		"another error":     {2, []error{errors.New("bad")}, 0},
		"the only one":      {1, []error{gone}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Reporter{Sync: syncOf(make([]api.Service, c.replicas))}
			for _, err := range c.answers {
				r.replicaErrors.set(c.replicas-1, time.Time{}, err)
			}
			var list condition.List
			r.Check(&list)
			if len(list) != c.want {
				t.Errorf("%d findings, want %d: %+v", len(list), c.want, list)
			}
		})
	}
}

// syncOf returns the Sync of a host with these control replicas.
func syncOf(replicas []api.Service) *Sync {
	mounts := &mounting.Mounts{Leases: &lease.Leases{Replicas: replicas}}
	return &Sync{Moves: &move.Moves{Operations: &operation.Operations{Mounts: mounts}}}
}

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
	failed := func(what string, want int) map[uuid.UUID]usageSummary {
		t.Helper()
		values, saved := u.unsaved()
		if len(values) != want {
			t.Errorf("%s: %d values, want %d", what, len(values), want)
		}
		return saved
	}
	unsaved := func(what string, want int) {
		t.Helper()
		u.setSaved(failed(what, want))
	}
	unsaved("nothing noted", 0)
	note(500)
	failed("noted", 1)
	unsaved("after a failed write", 1)
	note(499)
	unsaved("less than a percent", 0)
	note(990)
	unsaved("full", 1)
	kept := u.last[d.ID]

	var next usages
	next.load(map[uuid.UUID]lastUsage{d.ID: kept})
	if got, is := next.note(d, nil); got == nil || got.Percent() != 99 || is != dataset.Full {
		t.Errorf("after a restart: %+v, %q, want 99%%, FULL", got, is)
	}
	u.forget(d.ID)
	failed("removed", 1)
	unsaved("after a failed write", 1)
	unsaved("removed for good", 0)
}

// A volume can be unmounted between two system calls. The figures of the filesystem below the mount point are not its
// own.
func TestUsageOnlyOfMountPoint(t *testing.T) {
	at := scratch.Mount(t, "ext4", scratch.Ext4)
	if usage := statfs(at); usage == nil || usage.Available == 0 {
		t.Errorf("a mount point: %+v, want its usage", usage)
	}
	inside := filepath.Join(at, "inside")
	require.NoError(t, os.Mkdir(inside, 0o700))
	for _, path := range []string{"", inside, filepath.Join(at, "absent")} {
		if usage := statfs(path); usage != nil {
			t.Errorf("%q: %+v, want no usage", path, usage)
		}
	}
}
