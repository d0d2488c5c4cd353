package zfs_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// Clear leaves the parent filesystem as it was, also if an earlier Clear was interrupted after it had destroyed the
// pool's filesystem. A pool with a volume, or with a foreign filesystem, stays as it is.
func TestClear(t *testing.T) {
	b := newBench(t)
	top := b.home + "/drover-" + b.cfg.ID.String()
	refused := func(why string) {
		t.Helper()
		if _, err := b.pool.(backends.Clearer).Clear(t.Context()); !errors.Is(err, dataset.ErrConflict) {
			t.Errorf("with %s: %v", why, err)
		}
	}
	d := b.create()
	b.write(d.ID, "content")
	refused("a volume")
	b.holds(d.ID, "content")
	b.ok(b.pool.Delete(t.Context(), d.ID))
	b.reap()
	lines(t, "create", "-o", "mountpoint=none", top+"/mine")
	refused("somebody's filesystem")
	lines(t, "destroy", top+"/mine")
	for _, cut := range []bool{false, true} {
		if cut {
			b.open()
			lines(t, "destroy", "-r", top)
			b.open()
		}
		left, err := b.pool.(backends.Clearer).Clear(t.Context())
		if err != nil || left != "" {
			t.Errorf("cut %t: left %q, %v", cut, left, err)
		}
		names, err := os.ReadDir(b.cfg.Path)
		if !cut && !errors.Is(err, os.ErrNotExist) || len(names) > 0 {
			t.Errorf("cut %t: there is %v, %v", cut, names, err)
		}
		_ = os.Remove(b.cfg.Path)
		if all := lines(t, "list", "-H", "-o", "name", "-r", b.home); len(all) != 1 ||
			strings.TrimSpace(all[0]) != b.home {
			t.Errorf("cut %t: %q is there", cut, all)
		}
	}
}
