package loop

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func imageConfig(t *testing.T) backends.Config {
	host := scratch.Mount(t, "ext4", int64(2*dataset.GiB))
	return backends.Config{
		Name:  "test",
		Path:  filepath.Join(host, "pool.img"),
		Image: dataset.GiB,
		Mount: filepath.Join(host, "mnt"),
		Make:  true,
	}
}

// A process that was killed while it made the pool's image leaves a file that takes half of the disk. The next image
// needs that room.
func TestImageAfterKill(t *testing.T) {
	cfg := imageConfig(t)
	left, err := os.Create(backends.TemporaryImagePath(cfg.Path))
	require.NoError(t, err)
	require.NoError(t, errors.Join(allocate(left, int64(dataset.GiB)), left.Close()))
	openHosted(t, cfg)
}

// The mkfs of a killed process may still run. Its writes must not end up in the next image.
func TestImageBesideOrphan(t *testing.T) {
	cfg := imageConfig(t)
	orphan, err := os.Create(backends.TemporaryImagePath(cfg.Path))
	require.NoError(t, err)
	defer orphan.Close()
	openHosted(t, cfg)
	wantOther(t, orphan, cfg.Path)
}

// The same holds for a template.
func TestTemplateBesideOrphan(t *testing.T) {
	onPools(t, func(f *fixture) {
		d := newDataset(xfs)
		want, err := f.templates.SpecFor(d)
		f.must(err)
		path := filepath.Join(f.Shelf.Path(), templatesDir, want.Name())
		orphan, err := os.Create(path + tmpSuffix)
		f.must(err)
		defer orphan.Close()
		f.create(d)
		wantOther(t, orphan, path)
	})
}

func wantOther(t *testing.T, orphan *os.File, path string) {
	t.Helper()
	theirs, err := orphan.Stat()
	require.NoError(t, err)
	mine, err := os.Stat(path)
	require.NoError(t, err)
	if os.SameFile(mine, theirs) {
		t.Errorf("%s is the file that another mkfs writes to", path)
	}
}

// A file that appears in the place of the image meanwhile is not replaced.
func TestImageReplacesNothing(t *testing.T) {
	cfg := imageConfig(t)
	var sys run.System
	b := New(&sys)
	b.step = func(name string) {
		if name == "loop.image.made" {
			assert.NoError(t, os.WriteFile(cfg.Path, []byte("theirs"), 0o600))
		}
	}
	if _, err := b.Open(t.Context(), cfg); !errors.Is(err, dataset.ErrExists) && !errors.Is(err, unix.EEXIST) {
		t.Errorf("got %v", err)
	}
	if got, err := os.ReadFile(cfg.Path); err != nil || string(got) != "theirs" {
		t.Errorf("theirs is %.20q, %v", got, err)
	}
}
