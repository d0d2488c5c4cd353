package pooladmin_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// If several pools are made at once with one name, only one is made: the others would be unknown after a restart.
func TestConcurrentCreatesOfOnePool(t *testing.T) {
	r := agenttest.New(t)
	errs := make([]error, 8)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() {
			_, errs[i] = r.CreatePool(t.Context(), api.NewPool{Name: "more", Backend: "dir", Path: filepath.Join(r.Root, fmt.Sprint("more", i))})
		})
	}
	all.Wait()
	made := 0
	for _, err := range errs {
		if err == nil {
			made++
		} else if !errors.Is(err, dataset.ErrExists) {
			t.Error(err)
		}
	}
	if made != 1 || len(r.Pools.All()) != 2 {
		t.Errorf("%d made, %d known", made, len(r.Pools.All()))
	}
}

// The image of a pool is not mounted over another pool, and no pool is made in the place of an image.
func TestPoolsOverlap(t *testing.T) {
	image := pool.Record{Path: "/disk/x.img", Mount: "/root/pools/x"}
	for _, c := range []struct {
		other pool.Record
		want  bool
	}{
		{pool.Record{Path: "/root/pools/x"}, true}, {pool.Record{Path: "/root/pools"}, true}, {pool.Record{Path: "/disk"}, true},
		{pool.Record{Path: "/disk/x"}, false}, {pool.Record{Path: "/disk/y.img", Mount: "/root/pools/y"}, false},
		{pool.Record{Path: "/root/pools/x/y.img", Mount: "/root/pools/y"}, true},
	} {
		if pool.Overlap(image, c.other) != c.want || pool.Overlap(c.other, image) != c.want {
			t.Errorf("%+v and %+v: want %t", image, c.other, c.want)
		}
	}
}

// An error names a pool once, whichever function names it first.
func TestErrorsNameAPoolOnce(t *testing.T) {
	for given, want := range map[string][3]string{
		"no disk":              {"pool fast: no disk", "no disk", "pool fast is offline: no disk"},
		"pool fast: no disk":   {"pool fast: no disk", "no disk", "pool fast is offline: no disk"},
		"pool faster: no disk": {"pool fast: pool faster: no disk", "pool faster: no disk", "pool fast is offline: pool faster: no disk"},
	} {
		err := dataset.Errorf(dataset.ErrNoSpace, "%s", given)
		made := pool.WithPoolName("fast", err)
		if made.Error() != want[0] || !errors.Is(made, dataset.ErrNoSpace) {
			t.Errorf("%q: %q, want %q", given, made, want[0])
		}
		why := pool.WithoutPoolName("fast", err)
		if off := pool.OfflineError("fast", why); why != want[1] || off.Error() != want[2] || !errors.Is(off, dataset.ErrOffline) {
			t.Errorf("%q: %q and %q, want %q", given, why, off, want[1:])
		}
	}
}

// A copy of a pool is not served beside it. The refusal keeps the lock of the pool, and none of the copy.
func TestRefusedCopyOfPoolKeepsNoLock(t *testing.T) {
	r := agenttest.New(t)
	path, twin := filepath.Join(r.Root, "plain"), filepath.Join(r.Root, "twin")
	if _, err := r.CreatePool(t.Context(), api.NewPool{Name: "plain", Backend: "dir", Path: path}); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(twin, os.DirFS(path)); err != nil {
		t.Fatal(err)
	}
	before := len(r.Pools.PoolLocks.Sockets)
	_, err := r.Pools.Make(t.Context(), "twin", pool.Record{Backend: "dir", Path: twin})
	if !errors.Is(err, dataset.ErrExists) {
		t.Fatalf("got %v, want an error that the pool exists", err)
	}
	if after := len(r.Pools.PoolLocks.Sockets); after != before {
		t.Errorf("%d pools are locked, and %d were before", after, before)
	}
}
