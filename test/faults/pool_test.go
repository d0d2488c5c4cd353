package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
)

// poolPath is the path of the host's pool.
func (w *world) poolPath(t testing.TB, name string) string {
	t.Helper()
	return w.pool(t, name).Path
}

func (w *world) pool(t testing.TB, name string) api.Pool {
	t.Helper()
	c := w.h.Client(t)
	defer c.Close()
	pools, err := c.Pools(t.Context())
	w.ok(t, err)
	i := slices.IndexFunc(pools, func(p api.Pool) bool { return p.Name == name })
	if i < 0 {
		t.Fatalf("no pool %s in %+v", name, pools)
	}
	return pools[i]
}

// leftovers reads the default pool itself, and returns what is neither on record nor named by doctor.
func (w *world) leftovers(t testing.TB) []string {
	t.Helper()
	c := w.h.Client(t)
	defer c.Close()
	known := map[string]bool{}
	for _, list := range []func() (api.List[api.Volume], error){
		func() (api.List[api.Volume], error) { return c.Volumes(t.Context(), api.Page{}) },
		func() (api.List[api.Volume], error) { return c.Trash(t.Context(), api.Page{}) },
	} {
		l, err := list()
		w.ok(t, err)
		for _, v := range l.Items {
			known[v.ID.String()] = true
		}
	}
	snapshots, err := c.Snapshots(t.Context(), "", api.Page{})
	w.ok(t, err)
	for _, s := range snapshots.Items {
		known[s.ID.String()] = true
	}
	findings, err := c.Doctor(t.Context())
	w.ok(t, err)
	said := fmt.Sprint(findings)
	path := w.poolPath(t, "default")
	var left []string
	for _, area := range []string{"incoming", "deleting", "templates", "datasets"} {
		for _, name := range names(t, filepath.Join(path, area)) {
			where := filepath.Join(area, name)
			id, _, _ := strings.Cut(name, ".")
			switch {
			case strings.Contains(said, id):
			case area == "templates" && !strings.HasSuffix(name, ".tmp"):
			case area == "datasets" && known[id]:
				left = append(left, inside(t, filepath.Join(path, where), known)...)
			default:
				left = append(left, where)
			}
		}
	}
	return left
}

// inside returns what is in a dataset's folder without belonging to it: a temporary file, or a snapshot that is not
// on record.
func inside(t testing.TB, dir string, known map[string]bool) (left []string) {
	t.Helper()
	for _, name := range names(t, dir) {
		id, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(name, "snapshot-"), "head-"), ".")
		_, err := uuid.Parse(id)
		if strings.HasPrefix(name, "tmp-") || strings.HasPrefix(name, "next") || (err == nil && !known[id]) {
			left = append(left, filepath.Join(filepath.Base(dir), name))
		}
	}
	return left
}

// names lists a folder. A missing folder has no names.
func names(t testing.TB, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}
