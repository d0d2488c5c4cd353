package trialdir_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/btrfs"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) { os.Exit(scratch.Main(m)) }

func must(t *testing.T, err error) {
	t.Helper()
	require.NoError(t, err)
}

// pool opens a pool of a kind, with a dataset in it, at path.
func pool(t *testing.T, kind backends.Kind, path string) (backends.Pool, dataset.Dataset) {
	t.Helper()
	p, err := kind.Open(t.Context(), backends.Config{ID: uuid.New(), Name: "test", Path: path, Make: true})
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	d := dataset.Dataset{ID: uuid.New(), Volume: "db", State: dataset.StateReady, Pool: p.ID(), Request: uuid.New()}
	_, err = p.Create(t.Context(), d)
	must(t, err)
	must(t, p.Commit(t.Context(), d.ID))
	return p, d
}

// A remaining sandbox is found, and is removed with the datasets of its pools. Everything beside it stays.
func TestLeftIsRemoved(t *testing.T) {
	for _, kind := range []backends.Kind{dir.Backend{}, btrfs.New(), loop.New(&run.System{})} {
		t.Run(kind.Name(), func(t *testing.T) {
			path := filepath.Join(scratch.Mount(t, "btrfs", 2<<30), "pool")
			p, d := pool(t, kind, path)
			c, err := trialdir.Make(path, p.ID(), kind.Name())
			must(t, err)
			must(t, os.MkdirAll(filepath.Join(c.Path, "001/p1"), 0o700))
			q, e := pool(t, kind, filepath.Join(c.Path, "001/p1/pool"))
			must(t, q.Snapshot(t.Context(), dataset.Snapshot{ID: uuid.New(), Dataset: e.ID, Created: d.Created}, nil))
			must(t, os.WriteFile(filepath.Join(c.Path, "001/p1/pool/pool.json.tmp"), nil, 0o600))
			kinds := backends.NewRegistry(kind)

			list, err := trialdir.Find(path)
			if err != nil || len(list) != 1 || !list[0].Busy || list[0].ID != c.ID {
				t.Fatalf("while it is used: %+v, %v", list, err)
			}
			assert.ErrorIsf(t, trialdir.Remove(t.Context(), kinds, list[0]), dataset.ErrInUse, "while it is used")
			must(t, c.Close())
			list, err = trialdir.Find(path)
			if err != nil || len(list) != 1 || list[0].Busy || list[0].Foreign != "" || list[0].Backend != kind.Name() {
				t.Fatalf("left: %+v, %v", list, err)
			}
			entries, err := p.List(t.Context())
			if err != nil || len(entries) != 1 || entries[0].ID != d.ID {
				t.Errorf("the pool lists %+v, %v", entries, err)
			}
			for range 2 {
				must(t, trialdir.Remove(t.Context(), kinds, list[0]))
			}
			if list, err = trialdir.Find(path); err != nil || len(list) > 0 {
				t.Errorf("removed: %+v, %v", list, err)
			}
			if _, err := p.Stat(t.Context(), d.ID); err != nil {
				t.Errorf("what lies beside it: %v", err)
			}
		})
	}
}

// A filesystem that a killed process has frozen has no mount any more, but still has a device.
func TestFrozenIsRemoved(t *testing.T) {
	path := filepath.Join(scratch.Mount(t, "btrfs", 2<<30), "pool")
	kind := loop.New(&run.System{})
	p, _ := pool(t, kind, path)
	c, err := trialdir.Make(path, p.ID(), kind.Name())
	must(t, err)
	must(t, os.Mkdir(filepath.Join(c.Path, "001"), 0o700))
	q, d := pool(t, kind, filepath.Join(c.Path, "001", "pool"))
	a, err := q.Attach(t.Context(), d.ID, backends.AttachOptions{})
	must(t, err)
	root, err := mount.Detached(mount.Spec{Source: a.Mount.Source, FSType: a.Mount.FSType, Options: a.Mount.Options})
	must(t, err)
	must(t, errors.Join(a.Release(), fsctl.Freeze(root), root.Close()))
	must(t, errors.Join(c.Remove(t.Context(), backends.NewRegistry(kind)), c.Close()))
}

// A folder that has only the name of a sandbox is listed as foreign and never touched.
func TestOthersAreLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pool")
	p, _ := pool(t, dir.Backend{}, path)
	kinds := backends.NewRegistry(dir.Backend{})
	name := func() string { return filepath.Join(path, "drover-verify-"+uuid.NewString()) }
	file, link, unmarked, marked, empty := name(), name(), name(), name(), name()
	precious := filepath.Join(t.TempDir(), "precious")
	must(t, os.Mkdir(precious, 0o700))
	must(t, os.WriteFile(filepath.Join(precious, "corner.json"), nil, 0o600))
	must(t, os.WriteFile(file, []byte("x"), 0o600))
	must(t, os.Symlink(precious, link))
	must(t, os.Mkdir(empty, 0o700)) // its mark is empty, and beside the mark is a file of somebody else
	must(t, os.WriteFile(filepath.Join(empty, "corner.json"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(empty, "notes.txt"), []byte("x"), 0o600))
	for dir, inside := range map[string]string{unmarked: "notes.txt", marked: "corner.json"} {
		must(t, os.Mkdir(dir, 0o700))
		must(t, os.WriteFile(filepath.Join(dir, inside), []byte(`{"id": "`+uuid.NewString()+`"}`), 0o600))
	}
	must(t, os.Mkdir(filepath.Join(path, "drover-verify-notes"), 0o700))
	list, err := trialdir.Find(path)
	if err != nil || len(list) != 5 {
		t.Fatalf("found %+v, %v", list, err)
	}
	for _, l := range list {
		if err := trialdir.Remove(t.Context(), kinds, l); l.Foreign == "" || !errors.Is(err, dataset.ErrCorrupt) {
			t.Errorf("of %s it says %q, and removing gives %v", l.Path, l.Foreign, err)
		}
	}
	entries, err := p.List(t.Context())
	must(t, err)
	foreign := 0
	for _, e := range entries {
		if _, err := os.Lstat(e.Path); e.State == backends.EntryForeign && strings.Contains(e.Path, "drover-verify-") &&
			err == nil {
			foreign++
		}
	}
	if _, err := os.Stat(filepath.Join(precious, "corner.json")); foreign != 6 || err != nil {
		t.Errorf("%d are foreign, want 6: %+v; %v", foreign, entries, err)
	}
}

// A symbolic link is not accepted as a mark, even if it leads to the right mark.
func TestMarkThatIsALink(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pool")
	p, _ := pool(t, dir.Backend{}, path)
	c, err := trialdir.Make(path, p.ID(), "dir")
	must(t, err)
	must(t, c.Close())
	mark, away := filepath.Join(c.Path, "corner.json"), filepath.Join(t.TempDir(), "corner.json")
	must(t, errors.Join(os.Rename(mark, away), os.Symlink(away, mark)))
	list, err := trialdir.Find(path)
	if err != nil || len(list) != 1 || list[0].Foreign == "" {
		t.Errorf("found %+v, %v", list, err)
	}
}

// A sandbox that a power cut leaves is found again, with the backend of its pools.
func TestSandboxSurvivesAPowerCut(t *testing.T) {
	image := scratch.Image(t, "ext4", scratch.Ext4)
	path := filepath.Join(scratch.MountImage(t, "ext4", image), "pool")
	p, _ := pool(t, dir.Backend{}, path)
	c, err := trialdir.Make(path, p.ID(), "dir")
	must(t, err)
	list, err := trialdir.Find(filepath.Join(scratch.CutPower(t, "ext4", image), "pool"))
	if err != nil || len(list) != 1 || list[0].ID != c.ID || list[0].Backend != "dir" {
		t.Errorf("found %+v, %v", list, err)
	}
	must(t, c.Close())
}

// elsewhere is a backend whose pools have storage outside of their folder.
type elsewhere struct {
	dir.Backend
	there            map[string]bool // whether a pool has such storage, by the path of the pool
	opening, listing error
}

func (e *elsewhere) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	if e.opening != nil {
		return nil, e.opening
	}
	if !cfg.Make && !e.there[cfg.Path] {
		return nil, dataset.Errorf(dataset.ErrOffline, "its records are here, and the rest is not")
	}
	p, err := e.Backend.Open(ctx, cfg)
	e.there[cfg.Path] = true
	return outside{p, e, cfg.Path}, err
}

type outside struct {
	backends.Pool
	of *elsewhere
	at string
}

func (o outside) List(ctx context.Context) ([]backends.Entry, error) {
	if o.of.listing != nil {
		return nil, o.of.listing
	}
	return o.Pool.List(ctx)
}

func (o outside) RemoveStorage(context.Context) error { delete(o.of.there, o.at); return nil }

// The storage of a pool outside of its folder is removed with the sandbox. If a pool cannot be opened, its sandbox
// stays. A pool that was made or removed only in part does not prevent the removal.
func TestWhatLiesElsewhereGoesToo(t *testing.T) {
	kind := &elsewhere{there: map[string]bool{}}
	path := filepath.Join(t.TempDir(), "pool")
	p, _ := pool(t, kind, path)
	for name, c := range map[string]struct {
		breaks func()
		fails  bool
	}{
		"cannot be opened":         {func() { kind.opening = dataset.Errorf(dataset.ErrCorrupt, "broken") }, true},
		"cannot be listed":         {func() { kind.listing = dataset.Errorf(dataset.ErrCorrupt, "broken") }, true},
		"nothing lies there":       {func() { clear(kind.there); kind.there[path] = true }, false},
		"what lies there is whole": {func() {}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c1, err := trialdir.Make(path, p.ID(), kind.Name())
			must(t, err)
			at := filepath.Join(c1.Path, "p", "pool")
			must(t, os.Mkdir(filepath.Dir(at), 0o700))
			pool(t, kind, at)
			c.breaks()
			err = c1.Remove(t.Context(), backends.NewRegistry(kind))
			if (err != nil) != c.fails {
				t.Errorf("removed: %v", err)
			}
			if _, err := os.Lstat(filepath.Join(at, "pool.json")); (err == nil) != c.fails ||
				kind.there[at] != c.fails {
				t.Errorf("its pool: %v; elsewhere: %v", err, kind.there)
			}
			kind.opening, kind.listing = nil, nil
			must(t, errors.Join(c1.Remove(t.Context(), backends.NewRegistry(kind)), c1.Close()))
			if kind.there[at] || !kind.there[path] {
				t.Errorf("removed: %v is left", kind.there)
			}
		})
	}
}

// No sandbox is made in a folder that is not a pool, or is another pool.
func TestOnlyInItsPool(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pool")
	p, _ := pool(t, dir.Backend{}, path)
	for what, make := range map[string]func() (*trialdir.Sandbox, error){
		"another pool":    func() (*trialdir.Sandbox, error) { return trialdir.Make(path, uuid.New(), "dir") },
		"another backend": func() (*trialdir.Sandbox, error) { return trialdir.Make(path, p.ID(), "loop") },
		"no pool":         func() (*trialdir.Sandbox, error) { return trialdir.Make(filepath.Dir(path), p.ID(), "dir") },
		"nothing":         func() (*trialdir.Sandbox, error) { return trialdir.Make(path+"-x", p.ID(), "dir") },
	} {
		if _, err := make(); !errors.Is(err, dataset.ErrOffline) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if left, err := trialdir.Find(path); err != nil || len(left) > 0 {
		t.Errorf("left: %+v, %v", left, err)
	}
}
