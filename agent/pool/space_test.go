package pool_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
)

// leave fills a disk until only a number of bytes is free.
func leave(t *testing.T, dir string, free int64) {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-free); err != nil {
		t.Fatal(err)
	}
}

// When the disk of the root fills up, doctor reports that, before creates are refused and while they are. The refusal
// says the same. The trash is named if it is on that disk, and not if emptying it would free nothing there.
func TestDoctorReportsFullRootDisk(t *testing.T) {
	for name, beside := range map[string]bool{"a pool on the same disk": true, "a pool elsewhere": false} {
		t.Run(name, func(t *testing.T) {
			disk := scratch.Mount(t, "ext4", 1<<30)
			r := agenttest.New(t, func(c *agent.Config) {
				c.Root = disk
				if beside {
					c.Pools[0].Path = filepath.Join(disk, "pool")
				}
			})
			r.NewVolume("waste")
			if err := r.Remove(t.Context(), "waste"); err != nil {
				t.Fatal(err)
			}
			if f := r.Finding("root"); f.Level != host.OK || f.Fix != "" {
				t.Errorf("with room: %+v", f)
			}
			advice := func(what, text string) {
				t.Helper()
				if !strings.Contains(text, "df -h "+disk) || strings.Contains(text, "drover trash ls") != beside {
					t.Errorf("%s: the advice is %q", what, text)
				}
			}
			leave(t, disk, 40<<20)
			if f := r.Finding("root"); f.Level != host.Warning {
				t.Errorf("with little room: %+v", f)
			} else {
				advice("with little room", f.Fix)
			}
			leave(t, disk, 1<<20)
			if f := r.Finding("root"); f.Level != host.Error || !strings.Contains(f.Text, "creates are refused") {
				t.Errorf("full: %+v", f)
			} else {
				advice("full", f.Fix)
			}
			err := r.Create(t.Context(), "more", nil)
			if !errors.Is(err, dataset.ErrNoSpace) || !strings.Contains(err.Error(), disk+" is nearly full") {
				t.Fatalf("create: %v", err)
			}
			advice("create", err.Error())
		})
	}
}

// weighty is a pool that reports how much its datasets take and how full it is.
type weighty struct {
	backends.Pool
	used   map[uuid.UUID]dataset.Size
	status dataset.PoolStatus
}

func (p *weighty) Info() backends.Info {
	return backends.Info{Capabilities: dataset.Capabilities{OwnFilesystem: true}}
}

func (p *weighty) Used(_ context.Context, id uuid.UUID) (dataset.Size, error) { return p.used[id], nil }

func (p *weighty) Status(context.Context) dataset.PoolStatus { return p.status }

// Each volume named b has a snapshot that uses 5 GiB.
func (p *weighty) Stat(_ context.Context, id uuid.UUID) (e backends.Entry, err error) {
	if p.used[id] == 9*dataset.GiB {
		e.Snapshots = []dataset.Snapshot{{ID: id, Dataset: id, Name: "old"}}
	}
	return e, nil
}

func (p *weighty) UniqueSize(context.Context, uuid.UUID, uuid.UUID) (dataset.Size, error) {
	return 5 * dataset.GiB, nil
}

// weighs replaces the default pool by another one, in an image of a size or in none.
func weighs(r *agenttest.Host, p *weighty, image dataset.Size) {
	r.T.Helper()
	pl, _ := r.Pools.ByName("default")
	r.Pools.Change(pl.ID, func(pl *pool.Pool) { pl.Storage = p })
	// A raise of the pool keeps its own record, so the record is changed too.
	err := r.Pools.UpdateRecord(r.T.Context(), pl.ID, func(rec *pool.Record) { rec.Path, rec.Image = "/disk/pool", image })
	if err != nil {
		r.T.Fatal(err)
	}
}

// The problem of a pool with free space is reported without advice to free space: the pool accepts new data, and more
// space would not help.
func TestDoctorOfFailingPoolDoesNotAskForSpace(t *testing.T) {
	const why = "the quotas were none and are now full: restart drover"
	r := agenttest.New(t)
	p, _ := r.Pools.ByName("default")
	st := dataset.PoolStatus{Online: true, Free: 90 * dataset.GiB, Size: 100 * dataset.GiB, Reason: why}
	weighs(r, &weighty{Pool: p.Storage, status: st}, 0)
	if f := r.Finding("pool default"); f.Level != host.Error || f.Fix != "" || f.Text != why {
		t.Errorf("%+v", f)
	}
}

// The advice about a full pool says how much emptying the trash would free, and names the largest volumes if that is
// not enough. Doctor and the refusal give the same advice.
func TestRemedyForFullPool(t *testing.T) {
	const size = 100 * dataset.GiB // 2 GiB of it are reserved
	full := dataset.PoolStatus{Online: true, Free: dataset.GiB, Size: size, Reason: "pool default is nearly full"}
	for name, c := range map[string]struct {
		trash, other, image bool
		used                map[string]dataset.Size
		status              dataset.PoolStatus
		want                string
	}{
		"the trash would do": {true, false, true, map[string]dataset.Size{"gone": 30 * dataset.GiB}, full,
			"the trash has 1 volume with 30GiB: drover trash ls"},
		"other pools have trash too": {true, true, true, map[string]dataset.Size{"gone": 30 * dataset.GiB}, full,
			"the trash has 1 volume with 30GiB: drover trash ls"},
		"the trash is too little": {true, false, true, map[string]dataset.Size{"gone": dataset.MiB, "a": dataset.GiB, "b": 9 * dataset.GiB, "c": 0, "d": 2 * dataset.GiB}, full,
			"the trash has 1 volume with 1MiB: drover trash ls; the largest volumes and snapshots are b 9GiB, b@old 5GiB, d 2GiB: drover volume ls and drover snapshot ls show what could be deleted"},
		"no trash, on a disk that others fill": {false, false, false, map[string]dataset.Size{"gone": 3 * dataset.GiB}, full,
			"the largest volumes are gone 3GiB, a 0B, b 0B: drover volume ls and drover snapshot ls show what could be deleted; other files on its disk: df -h /disk/pool"},
		"the image lacks blocks": {true, false, true, nil,
			dataset.PoolStatus{Online: true, Free: 90 * dataset.GiB, Size: size, Reason: "the pool's image is not fully allocated"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := agenttest.New(t)
			pl, _ := r.Pools.ByName("default")
			p := &weighty{Pool: pl.Storage, used: map[uuid.UUID]dataset.Size{}, status: c.status}
			for _, v := range []string{"a", "b", "c", "d", "gone"} {
				d := dataset.Dataset{ID: uuid.New(), Volume: v, State: dataset.StateReady, Pool: pl.ID}
				p.used[d.ID] = c.used[v]
				if v == "gone" && c.trash {
					d.State = dataset.StateTrashed
				}
				r.Cache.Load(api.IndexedDataset{Dataset: d})
			}
			if c.other {
				r.Cache.Load(api.IndexedDataset{Dataset: dataset.Dataset{ID: uuid.New(), State: dataset.StateTrashed, Pool: uuid.New()}})
			}
			var image dataset.Size
			if c.image {
				image = size
			}
			weighs(r, p, image)
			if f := r.Finding("pool default"); f.Level != host.Error || f.Fix != c.want {
				t.Errorf("doctor: %+v, want %q", f, c.want)
			}
			err := r.Pools.AddHint(t.Context(), pl.ID, dataset.Errorf(dataset.ErrNoSpace, "full"))
			want := "full"
			if c.want != "" {
				want += " (" + c.want + ")"
			}
			if err.Error() != want {
				t.Errorf("a refusal: %q, want %q", err, want)
			}
		})
	}
}
