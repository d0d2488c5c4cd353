package restic_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/internal/tree/treetest"
)

// A full repository can be restored from: restic cannot write its lock, and needs none to read. A removal and a prune
// say how much space must be freed.
func TestFullRepository(t *testing.T) {
	o := options(t)
	must(t, os.Mkdir(o.URL, 0o700))
	must(t, unix.Mount("none", o.URL, "tmpfs", 0, "size=16m"))
	t.Cleanup(func() { must(t, unix.Unmount(o.URL, unix.MNT_DETACH)) })
	r := initialized(t, o)
	b, _, err := r.Backup(t.Context(), restic.Request{Dir: source(t), Names: names()})
	must(t, err)
	fill, err := os.Create(filepath.Join(o.URL, "fill"))
	must(t, err)
	defer fill.Close()
	for block := make([]byte, 4096); err == nil; {
		_, err = fill.Write(block)
	}
	target := t.TempDir()
	if err := r.RestoreFolder(t.Context(), b.ID, "data", target, true); err != nil {
		t.Errorf("restore: %v", err)
	}
	if text, err := os.ReadFile(filepath.Join(target, "data", "a")); err != nil || string(text) != "content of a" {
		t.Errorf("restored %q, %v", text, err)
	}
	const room = "free at least 1"
	refused(t, r.Remove(t.Context(), b.ID), dataset.ErrNoSpace, room)
	refused(t, r.Prune(t.Context()), dataset.ErrNoSpace, room)
	must(t, os.Truncate(fill.Name(), 8<<20))
	must(t, r.Remove(t.Context(), b.ID))
	must(t, r.Prune(t.Context()))
}

// restic writes new data to temporary files first. Any user can fill /tmp, so they are in a private folder. If its disk
// is full, the error does not blame the repository.
func TestTemporaryFiles(t *testing.T) {
	o := options(t)
	r := initialized(t, o)
	ask := restic.Request{Dir: source(t), Names: names()}
	t.Setenv("TMPDIR", "/proc") // takes no files
	_, _, err := r.Backup(t.Context(), ask)
	must(t, err)
	info, err := os.Stat(ownCache(o))
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("got mode %s", info.Mode())
	}
	must(t, unix.Mount("none", ownCache(o), "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { must(t, unix.Unmount(ownCache(o), unix.MNT_DETACH)) })
	must(t, os.WriteFile(filepath.Join(ask.Dir, "data", "large"), treetest.Bytes(1, 1<<20), 0o600))
	_, _, err = r.Backup(t.Context(), ask)
	refused(t, err, dataset.ErrNoSpace, "the disk of Drover's root has no space for restic's temporary files (make space): ")
}
