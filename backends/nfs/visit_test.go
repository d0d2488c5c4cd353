package nfs_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// What many_hosts declares: another host attaches a dataset where its home has it, mounted or
// not, the very same files; and goes on when it is taken to another pool.
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
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := att.Release(); err != nil {
				t.Error(err)
			}
		}()
		if m := att.Mount; m.FSType != "bind" || !m.Flags.ReadOnly || !m.Flags.NoDev {
			t.Errorf("%+v", m)
		}
		info, err := os.Stat(att.Mount.Source)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	own, err := os.Stat(filepath.Join(share, "alpha", "incoming", d.ID.String(), "head")) // as before its place
	if err != nil || !os.SameFile(own, source(b, a)) {
		t.Errorf("it is another one: %v", err)
	}
	if err := a.Commit(t.Context(), d.ID); err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(own, source(b, a)) || !os.SameFile(own, source(a, a)) {
		t.Error("it is another one")
	}
	if _, err := visit(b, c); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("where it is not: %v", err)
	}
	d.Epoch = 2
	if err := c.(backends.Sharer).Take(t.Context(), d, backends.Given{Pool: a.ID(), Epoch: 1}); err != nil {
		t.Fatal(err)
	}
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
