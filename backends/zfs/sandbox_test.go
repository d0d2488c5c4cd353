package zfs_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/backends/zfs"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/require"
)

// The filesystems of a pool in a sandbox are removed with the sandbox. Nothing of the outer pool is removed.
func TestSandboxIsRazed(t *testing.T) {
	_, mnt := zpool(t, 1<<30)
	kind := zfs.New(&run.System{}, clock.System{})
	made := func(path string) (backends.Pool, dataset.Dataset) {
		t.Helper()
		p, err := kind.Open(t.Context(), backends.Config{ID: uuid.New(), Name: "test", Path: path, Make: true})
		require.NoError(t, err)
		d := dataset.Dataset{ID: uuid.New(), Volume: "db", State: dataset.StateReady, Pool: p.ID(), Request: uuid.New()}
		if _, err := p.Create(t.Context(), d); err != nil {
			t.Fatal(err)
		}
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
	if _, err := q.Clone(t.Context(), clone, dataset.Source{Dataset: e.ID}, nil); err != nil {
		t.Fatal(err)
	}
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
	if _, err := p.Stat(t.Context(), d.ID); err != nil {
		t.Error(err)
	}
}
