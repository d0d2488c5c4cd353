package restic_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/test/require"
)

// A full repository can be restored from: restic cannot write its lock, and needs none to read. A removal and a prune
// say how much space must be freed.
func TestFullRepository(t *testing.T) {
	o := options(t)
	require.NoError(t, unix.Mount("none", o.URL, "tmpfs", 0, "size=16m"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(o.URL, unix.MNT_DETACH)) })
	r := initialized(t, o)
	b, _, err := r.Backup(t.Context(), restic.Request{Dir: source(t), Names: names()})
	require.NoError(t, err)
	fill, err := os.Create(filepath.Join(o.URL, "fill"))
	require.NoError(t, err)
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
	require.NoError(t, os.Truncate(fill.Name(), 8<<20))
	require.NoError(t, r.Remove(t.Context(), b.ID))
	require.NoError(t, r.Prune(t.Context()))
}

// restic writes new data to temporary files first. Any user can fill /tmp, so they are in a private folder. If its disk
// is full, the error does not blame the repository.
func TestTemporaryFiles(t *testing.T) {
	o := options(t)
	r := initialized(t, o)
	ask := restic.Request{Dir: source(t), Names: names()}
	t.Setenv("TMPDIR", "/proc") // takes no files
	_, _, err := r.Backup(t.Context(), ask)
	require.NoError(t, err)
	info, err := os.Stat(ownCache(o))
	require.NoError(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("got mode %s", info.Mode())
	}
	say(t, "Fatal: unable to save snapshot: Write: write /x/restic-temp-pack-1: no space left on device\n", "1")
	_, _, err = r.Backup(t.Context(), ask)
	refused(t, err, dataset.ErrNoSpace, "the disk of Drover's root has no space for restic's temporary files (make space): ")
}

// The server of a directory can put links into it. restic follows none: a prune removes no file of the host.
func TestLinksInRepository(t *testing.T) {
	o := options(t)
	r := initialized(t, o)
	_, _, err := r.Backup(t.Context(), restic.Request{Dir: source(t), Names: names()})
	require.NoError(t, err)
	victim := write(t, filepath.Join(t.TempDir(), strings.Repeat("5f", 32)), "of the host")
	link := filepath.Join(o.URL, "data", "5f")
	require.NoError(t, os.RemoveAll(link)) // it may have a pack
	require.NoError(t, os.Symlink(filepath.Dir(victim), link))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // restic repeats the listing for long
	defer cancel()
	if err := r.Prune(ctx); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(victim); err != nil {
		t.Error(err)
	}
}
