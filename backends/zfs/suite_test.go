package zfs_test

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/backendtest/crashing"
	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/backends/zfs"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/fault"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// The suite needs 4 GiB below a pool.
const suiteDisk = 5 << 30

func TestSuite(t *testing.T) {
	backendtest.Run(t, variant, func(t *testing.T) (backends.Kind, backends.Config) {
		if slices.Contains(slow(), path.Base(t.Name())) {
			long.Only(t)
		}
		_, mnt := zpool(t, suiteDisk)
		return zfs.New(&run.System{}, clock.System{}), backends.Config{Name: "test", Path: filepath.Join(mnt, "pool")}
	}, lacks()...)
}

// I3: an operation of which any system call fails damages nothing in the pool.
func TestI3FailingCalls(t *testing.T) {
	crashing.FailingCallsEvery(t, variant, 2, func(t *testing.T) (backends.Kind, backends.Config) {
		if op := path.Base(t.Name()); op != "restore" && op != "supersede" {
			long.Only(t)
		}
		_, mnt := zpool(t, suiteDisk)
		return zfs.New(fault.Runner{Next: &run.System{}},
			clock.System{}), backends.Config{Name: "test", Path: filepath.Join(mnt, "pool")}
	})
}

// lines returns the lines that a zfs command prints.
func lines(t *testing.T, args ...string) []string {
	t.Helper()
	res, err := (&run.System{}).Run(t.Context(), run.Command{Name: "zfs", Args: args, Timeout: time.Minute})
	require.NoError(t, err)
	return strings.Split(strings.TrimSuffix(string(res.Stdout), "\n"), "\n")
}

// Clear leaves the parent filesystem as it was, also if an earlier Clear was interrupted after it had destroyed the
// pool's filesystem. A pool with a volume, or with a foreign filesystem, stays as it is.
func TestClear(t *testing.T) {
	b := newBench(t)
	top := b.home + "/drover-" + b.cfg.ID.String()
	refused := func(why string) {
		t.Helper()
		if _, err := b.pool.(backends.Clearer).Clear(t.Context()); !errors.Is(err, dataset.ErrConflict) {
			t.Errorf("with %s: %v", why, err)
		}
	}
	d := b.create()
	b.write(d.ID, "content")
	refused("a volume")
	b.holds(d.ID, "content")
	b.ok(b.pool.Delete(t.Context(), d.ID))
	b.reap()
	lines(t, "create", "-o", "mountpoint=none", top+"/mine")
	refused("somebody's filesystem")
	lines(t, "destroy", top+"/mine")
	for _, cut := range []bool{false, true} {
		if cut {
			b.open()
			lines(t, "destroy", "-r", top)
			b.open()
		}
		left, err := b.pool.(backends.Clearer).Clear(t.Context())
		if err != nil || left != "" {
			t.Errorf("cut %t: left %q, %v", cut, left, err)
		}
		names, err := os.ReadDir(b.cfg.Path)
		if !cut && !errors.Is(err, os.ErrNotExist) || len(names) > 0 {
			t.Errorf("cut %t: there is %v, %v", cut, names, err)
		}
		_ = os.Remove(b.cfg.Path)
		if all := lines(t, "list", "-H", "-o", "name", "-r", b.home); len(all) != 1 ||
			strings.TrimSpace(all[0]) != b.home {
			t.Errorf("cut %t: %q is there", cut, all)
		}
	}
}

// The filesystems of a pool in a sandbox are removed with the sandbox. Nothing of the outer pool is removed.
func TestSandboxIsRazed(t *testing.T) {
	_, mnt := zpool(t, 1<<30)
	kind := zfs.New(&run.System{}, clock.System{})
	made := func(path string) (backends.Pool, dataset.Dataset) {
		t.Helper()
		p, err := kind.Open(t.Context(), backends.Config{ID: uuid.New(), Name: "test", Path: path, Make: true})
		require.NoError(t, err)
		d := dataset.Dataset{ID: uuid.New(), Volume: "db", State: dataset.StateReady, Pool: p.ID(), Request: uuid.New()}
		_, err = p.Create(t.Context(), d)
		require.NoError(t, err)
		require.NoError(t, p.Commit(t.Context(), d.ID))
		return p, d
	}
	path := filepath.Join(mnt, "pool")
	p, d := made(path)
	before := lines(t, "list", "-H", "-o", "name", "-t", "all")
	c, err := trialdir.Make(path, p.ID(), kind.Name())
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(c.Path, "001/p1"), 0o700))
	q, e := made(filepath.Join(c.Path, "001/p1/pool"))
	clone := e
	clone.ID = uuid.New()
	_, err = q.Clone(t.Context(), clone, dataset.Source{Dataset: e.ID}, nil)
	require.NoError(t, err)
	if now := lines(t, "list", "-H", "-o", "name"); !strings.Contains(strings.Join(now, "\n"), q.ID().String()) {
		t.Fatalf("the pool in the sandbox has nothing: %q", now)
	}
	require.NoError(t, c.Close())
	left, err := trialdir.Find(path)
	if err != nil || len(left) != 1 {
		t.Fatal(left, err)
	}
	require.NoError(t, trialdir.Remove(t.Context(), backends.NewRegistry(kind), left[0]))
	if after := lines(t, "list", "-H", "-o", "name", "-t", "all"); !slices.Equal(after, before) {
		t.Errorf("there is %q, was %q", after, before)
	}
	_, err = p.Stat(t.Context(), d.ID)
	assert.NoError(t, err)
}
