package dir_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/dataset"
)

// Clear removes a pool with its folder, unless the folder existed before. A pool with any content stays as it is. After
// a crash, Open completes the remaining pool, and Clear removes it.
func TestClear(t *testing.T) {
	gone := []string{"pool.json", "incoming", "datasets", "deleting"}
	for n := range len(gone) + 1 {
		for _, given := range []bool{false, true} {
			b := newBench(t)
			path := filepath.Join(t.TempDir(), "pool")
			if given {
				b.ok(os.Mkdir(path, 0o755))
			}
			cfg := backends.Config{ID: uuid.New(), Name: "test", Path: path, Make: true}
			open := func() backends.Pool {
				p, err := dir.Backend{}.Open(t.Context(), cfg)
				b.ok(err)
				return p
			}
			p := open()
			for _, what := range []string{"file", "datasets/file", "folder/"} {
				at := filepath.Join(path, what)
				b.ok(os.MkdirAll(filepath.Dir(at), 0o700))
				b.ok(os.WriteFile(at+"x", nil, 0o600))
				if _, err := p.(backends.Clearer).Clear(t.Context()); !errors.Is(err, dataset.ErrConflict) {
					t.Errorf("with %s: %v", what, err)
				}
				b.ok(os.Remove(at + "x"))
				_ = os.Remove(filepath.Join(path, "folder"))
			}
			if st := p.Status(t.Context()); !st.Online {
				t.Errorf("refused, it is no pool any more: %s", st.Reason)
			}
			for _, name := range gone[:n] {
				b.ok(os.Remove(filepath.Join(path, name)))
			}
			if n > 0 {
				p = open()
			}
			left, err := p.(backends.Clearer).Clear(t.Context())
			b.ok(err)
			names, err := os.ReadDir(path)
			if left != "" || len(names) > 0 || n == 0 && given != (err == nil) {
				t.Errorf("%d gone, given %t: left %q, %v, %v", n, given, left, names, err)
			}
		}
	}
}
