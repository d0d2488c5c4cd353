package nfs_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// The capability many_hosts: another host attaches a dataset in the pool of its home, mounted or not, and sees the same
// files. The attachment stays valid when the dataset is taken to another pool.
func TestVisit(t *testing.T) {
	share := t.TempDir()
	a, b, c := open(t, share, "alpha"), open(t, share, "beta"), open(t, share, "gamma")
	if !b.Info().Capabilities.ManyHosts {
		t.Error("not declared")
	}
	d := dataset.Dataset{ID: uuid.New(), Epoch: 1}
	if _, err := a.Create(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	visit := func(p, at backends.Pool) (backends.Attachment, error) {
		return p.(backends.Sharer).Visit(t.Context(), d.ID, at.ID(), backends.AttachOptions{ReadOnly: true})
	}
	source := func(p, at backends.Pool) os.FileInfo {
		t.Helper()
		att, err := visit(p, at)
		require.NoError(t, err)
		defer func() {
			assert.NoError(t, att.Release())
		}()
		if m := att.Mount; m.FSType != "bind" || !m.Flags.ReadOnly || !m.Flags.NoDev {
			t.Errorf("%+v", m)
		}
		info, err := os.Stat(att.Mount.Source)
		require.NoError(t, err)
		return info
	}
	// The staged tree, before the dataset is moved to its place.
	own, err := os.Stat(filepath.Join(share, "alpha", "incoming", d.ID.String(), "head"))
	if err != nil || !os.SameFile(own, source(b, a)) {
		t.Errorf("it is another one: %v", err)
	}
	require.NoError(t, a.Commit(t.Context(), d.ID))
	if !os.SameFile(own, source(b, a)) || !os.SameFile(own, source(a, a)) {
		t.Error("it is another one")
	}
	if _, err := visit(b, c); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("where it is not: %v", err)
	}
	d.Epoch = 2
	require.NoError(t, c.(backends.Sharer).Take(t.Context(), d, backends.PreviousHome{Pool: a.ID(), Epoch: 1}))
	if _, err := visit(b, a); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("where it is no more: %v", err)
	}
	if !os.SameFile(own, source(b, c)) {
		t.Error("it is another one")
	}
	if list, err := b.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("its own pool has %+v, %v", list, err)
	}
}

// If a host writes although an operator confirmed that it does not, it changes no snapshot: a restore keeps a copy of
// the old head, and removes the files that the host has open.
func TestRestoreByCopy(t *testing.T) {
	a := open(t, t.TempDir(), "alpha")
	d := dataset.Dataset{ID: uuid.New(), Epoch: 1}
	_, err := a.Create(t.Context(), d)
	require.NoError(t, err)
	write(t, a, d.ID, "old")
	s, keep := dataset.Snapshot{ID: uuid.New(), Dataset: d.ID}, dataset.Snapshot{
		ID:      uuid.New(),
		Dataset: d.ID,
		Kind:    dataset.SnapshotRestore,
	}
	require.NoError(t, a.Snapshot(t.Context(), s, nil))
	write(t, a, d.ID, "new")
	there, err := os.OpenRoot(head(t, a, d.ID)) // opened by the host that was cut off
	require.NoError(t, err)
	defer there.Close()
	file, err := there.OpenFile("file", os.O_RDWR, 0)
	require.NoError(t, err)
	defer file.Close()
	for range 2 {
		require.NoError(t, a.(backends.Sharer).RestoreByCopy(t.Context(), d.ID, s.ID, keep, nil))
		_, _ = file.WriteAt([]byte("spoilt"), 0) // fails on a share, and is lost on a disk
		if f, err := there.Create("another"); err == nil {
			t.Errorf("made %s where nobody looks", f.Name())
			_ = f.Close()
		}
		if got := read(t, a, d.ID); got != "old" {
			t.Errorf("the head holds %q", got)
		}
		c := dataset.Dataset{ID: uuid.New()}
		_, err := a.Clone(t.Context(), c, dataset.Source{Dataset: d.ID, Snapshot: keep.ID}, nil)
		require.NoError(t, err)
		if got := read(t, a, c.ID); got != "new" {
			t.Errorf("what was kept holds %q", got)
		}
		require.NoError(t, a.Delete(t.Context(), c.ID))
		write(t, a, d.ID, "old")
	}
	require.NoError(t, a.DeleteSnapshot(t.Context(), d.ID, keep.ID))
	if n, err := a.Reap(t.Context(), func(uuid.UUID) bool { return false }); n != 0 || err != nil {
		t.Errorf("%d things were left, %v", n, err)
	}
}
