package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A folder that is bound elsewhere is what it is there too: none of another pool, of an engine
// or of the mounts becomes a pool by another way. One of nobody does.
func TestPoolPlacedThroughABind(t *testing.T) {
	r := newRig(t)
	pool, ok := r.pools.byName("default")
	if !ok {
		t.Fatal("no pool")
	}
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	engine, free := filepath.Join(root, "engine"), filepath.Join(root, "free")
	for _, dir := range []string{filepath.Join(engine, "volumes"), free, filepath.Join(r.mountRoot(), "some")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(engine, "engine-id"), []byte("8b2d"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(root, "bound")
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	bound := func(from string, then func()) {
		if err := unix.Mount(from, at, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		then()
		if err := unix.Unmount(at, 0); err != nil {
			t.Fatal(err)
		}
	}
	second := api.NewPool{Name: "second", Backend: "dir"}
	for from, says := range map[string]string{
		filepath.Join(pool.rec.Path, "incoming"): "lies in pool " + pool.ID.String(),
		filepath.Join(engine, "volumes"):         "lies in " + engine + ", where a container engine",
		filepath.Join(r.mountRoot(), "some"):     ", where volumes are mounted",
	} {
		bound(from, func() {
			for _, second.Path = range []string{at, filepath.Join(at, "new")} {
				_, err := r.CreatePool(t.Context(), second)
				if !errors.Is(err, dataset.ErrInvalid) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "seen at "+second.Path+" as well") {
					t.Errorf("%s at %s: %v", from, second.Path, err)
				}
			}
		})
	}
	bound(free, func() {
		second.Path = filepath.Join(at, "new")
		if _, err := r.CreatePool(t.Context(), second); err != nil {
			t.Error(err)
		}
	})
}
