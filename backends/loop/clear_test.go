package loop

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// Clearing a pool is interrupted at each step. Open makes the remaining pool whole, and clearing it again leaves
// nothing.
func TestClearCutShort(t *testing.T) {
	xfs, subvol := scratch.Mount(t, "xfs", 2<<30), scratch.Mount(t, "btrfs", 2<<30)
	for what, cfg := range map[string]backends.Config{
		"xfs":   {Path: filepath.Join(xfs, "pool")},
		"btrfs": {Path: filepath.Join(subvol, "pool")},
		"image": {
			Path:  filepath.Join(t.TempDir(), "pool.img"),
			Image: 600 * dataset.MiB,
			Mount: filepath.Join(t.TempDir(), "mnt"),
		},
	} {
		t.Run(what, func(t *testing.T) {
			cfg.Name, cfg.Make = "test", true
			for at := 0; ; at++ {
				cfg.ID = uuid.New()
				b := New(&run.System{})
				open := func() *Pool {
					p, err := b.Open(t.Context(), cfg)
					if err != nil {
						t.Fatal(at, err)
					}
					return p.(*Pool)
				}
				p := open()
				d := dataset.Dataset{ID: uuid.New(), Volume: "db", Size: 64 * dataset.MiB}
				if _, err := p.Create(t.Context(), d); err != nil {
					t.Fatal(err)
				}
				if _, err := p.Clear(t.Context()); !errors.Is(err, dataset.ErrConflict) {
					t.Fatalf("with a volume: %v", err)
				}
				require.NoError(t, p.Delete(t.Context(), d.ID))
				n := 0
				b.step = func(step string) {
					if n++; n > at {
						panic(step)
					}
				}
				cut := func() (step any) {
					defer func() { step = recover() }()
					_, err := p.Clear(t.Context())
					if err != nil {
						t.Error(at, err)
					}
					return nil
				}()
				b.step = func(string) {}
				if _, err := os.Stat(cfg.Path); cut != nil && (what != "image" || err == nil) {
					if _, err := open().Clear(t.Context()); err != nil {
						t.Fatalf("after %v: %v", cut, err)
					}
				}
				left, err := os.ReadDir(cfg.Path)
				if cut == nil && !errors.Is(err, os.ErrNotExist) || len(left) > 0 {
					t.Errorf("after %v there is %v, %v", cut, left, err)
				}
				_ = os.Remove(cfg.Path) // the directory existed when the pool was made again
				if cut == nil {
					break
				}
			}
		})
	}
}

// Another file that took the place of the image, for example a restored copy of it, is not removed, because it may
// not be empty.
func TestClearLeavesAnotherImage(t *testing.T) {
	for when, step := range map[string]string{"before": "", "after it was unmounted": "clear.unmounted"} {
		t.Run(when, func(t *testing.T) {
			dir, b := t.TempDir(), New(&run.System{})
			cfg := backends.Config{
				Name:  "test",
				ID:    uuid.New(),
				Make:  true,
				Path:  filepath.Join(dir, "pool.img"),
				Image: 600 * dataset.MiB,
				Mount: filepath.Join(dir, "mnt"),
			}
			p, err := b.Open(t.Context(), cfg)
			require.NoError(t, err)
			t.Cleanup(func() {
				assert.NoError(t, p.Close())
			})
			exchange := func() {
				if err := errors.Join(os.Rename(cfg.Path, cfg.Path+".old"),
					os.WriteFile(cfg.Path, []byte("a copy"), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			if step == "" {
				exchange()
			}
			b.step = func(at string) {
				if step != "" && strings.HasSuffix(at, step) {
					exchange()
				}
			}
			if _, err := p.(backends.Clearer).Clear(t.Context()); !errors.Is(err, dataset.ErrOffline) {
				t.Errorf("cleared: %v", err)
			}
			if is, err := os.ReadFile(cfg.Path); string(is) != "a copy" {
				t.Errorf("what was put there is %q, %v", is, err)
			}
		})
	}
}

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
