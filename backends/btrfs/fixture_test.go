package btrfs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// fixture is a pool on a separate disk with full quotas.
type fixture struct {
	*testing.T
	backends.Pool
	backend *Backend
	disk    string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	disk := scratch.Mount(t, "btrfs", 1<<30)
	scratch.Quota(t, disk, "full")
	return fixtureAt(t, disk)
}

func fixtureAt(t *testing.T, disk string) *fixture {
	t.Helper()
	f := &fixture{T: t, backend: New(), disk: disk}
	f.reopen()
	return f
}

func (f *fixture) path() string { return filepath.Join(f.disk, "pool") }

func (f *fixture) reopen() {
	f.Helper()
	cfg := backends.Config{Name: "test", Path: f.path()}
	if _, err := os.Stat(filepath.Join(f.path(), "pool.json")); err != nil {
		cfg.Make = true
	}
	pool, err := f.backend.Open(f.Context(), cfg)
	f.must(err)
	f.Pool = pool
}

func (f *fixture) must(err error) {
	f.Helper()
	require.NoError(f, err)
}

// folder returns the folder of a dataset.
func (f *fixture) folder(id uuid.UUID) string {
	f.Helper()
	e, err := f.Stat(f.Context(), id)
	f.must(err)
	return e.Path
}

// head returns the directory from which a dataset is mounted.
func (f *fixture) head(id uuid.UUID) string {
	f.Helper()
	a, err := f.Attach(f.Context(), id, backends.AttachOptions{})
	f.must(err)
	f.must(a.Release())
	return a.Mount.Source
}

// write writes content to a dataset's file and flushes it.
func (f *fixture) write(id uuid.UUID, content string) {
	f.Helper()
	file, err := os.Create(filepath.Join(f.head(id), "file"))
	f.must(err)
	_, err = file.WriteString(content)
	f.must(err)
	f.must(file.Sync())
	f.must(file.Close())
}

func (f *fixture) read(id uuid.UUID) string {
	f.Helper()
	b, err := os.ReadFile(filepath.Join(f.head(id), "file"))
	if err != nil && !os.IsNotExist(err) {
		f.Fatal(err)
	}
	return string(b)
}

// holds fails unless a clone of a snapshot has the content. With "absent", it fails if the snapshot exists.
func (f *fixture) holds(ds, snapshot uuid.UUID, want string) {
	f.Helper()
	c := dataset.Dataset{ID: uuid.New()}
	_, err := f.Clone(f.Context(), c, dataset.Source{Dataset: ds, Snapshot: snapshot}, nil)
	got := "absent"
	if dataset.KindOf(err) != dataset.ErrNotFound {
		f.must(err)
		got = f.read(c.ID)
		f.must(f.Delete(f.Context(), c.ID))
	}
	if got != want {
		f.Errorf("snapshot %s holds %q, want %q", snapshot, got, want)
	}
}

// limitOf returns the limit that the kernel enforces for a dataset's head.
func limitOf(t backendtest.T, p backends.Pool, id uuid.UUID) dataset.Size {
	t.Helper()
	a, err := p.Attach(t.Context(), id, backends.AttachOptions{})
	require.NoError(t, err)
	dir, err := os.Open(a.Mount.Source)
	require.NoError(t, err)
	defer dir.Close()
	c, err := btrfsctl.Count(dir)
	require.NoError(t, errors.Join(err, a.Release()))
	return dataset.Size(c.Limit)
}

func (f *fixture) limit(id uuid.UUID) dataset.Size { return limitOf(f, f.Pool, id) }

func (f *fixture) wantLimit(id uuid.UUID, want dataset.Size) {
	f.Helper()
	if got := f.limit(id); got != want {
		f.Errorf("the limit is %s, want %s", got, want)
	}
}

// settled reaps, and fails unless every remaining subvolume is a head or a snapshot.
func (f *fixture) settled() {
	f.Helper()
	_, err := f.Reap(f.Context(), func(uuid.UUID) bool { return true })
	f.must(err)
	n, err := f.Reap(f.Context(), func(uuid.UUID) bool { return true })
	f.must(err)
	if n != 0 {
		f.Errorf("reaped %d things more", n)
	}
	onlyKnownTrees(f, f.Pool)
}

// onlyKnownTrees fails the test unless every subvolume of a pool is a head or a listed snapshot.
func onlyKnownTrees(t backendtest.T, p backends.Pool) {
	t.Helper()
	list, err := p.List(t.Context())
	require.NoError(t, err)
	want := 0
	for _, e := range list {
		if e.Problem != "" || e.State == backends.EntryForeign || e.State == backends.EntryDeleting {
			t.Errorf("the list has %+v", e)
		}
		want += len(e.Snapshots)
		if e.State != backends.EntryCopy || e.Promoted {
			want++
		}
	}
	found, err := filepath.Glob(filepath.Join(p.Info().Path, "*", "*", "*"))
	require.NoError(t, err)
	for _, path := range found {
		if strings.HasPrefix(filepath.Base(path), shelf.Temp) {
			t.Errorf("left: %s", path)
		}
		if info, err := os.Lstat(path); err == nil && info.IsDir() {
			want--
		}
	}
	if want != 0 {
		t.Errorf("%d more subvolumes are on record than there are: %q", want, found)
	}
}
