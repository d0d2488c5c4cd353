package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/host"
)

// damages are done to the files of a Drover that is not running. lost says that the store is lost, so the names must be
// restored. Otherwise the uses of volumes are not known any more.
var damages = []struct {
	name, file string
	lost       bool
	do         func(path string) error
}{
	{"store overwritten", "store.db", true, func(path string) error {
		return os.WriteFile(path, []byte(strings.Repeat("garbage ", 8<<10)), 0o600)
	}},
	{"agent's state removed", "agent.db", false, os.Remove},
}

// Whatever happens to the files in which Drover keeps its records, it starts, destroys nothing, reports what it sees,
// and restores all names from the pools.
func TestI4StoreLost(t *testing.T) {
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			w := newWorld(t, host.Options{})
			w.peopled(t)
			before, pooled := w.records(t), w.inPool(t)
			w.h.Kill9(t)
			w.ok(t, d.do(filepath.Join(w.h.Root, d.file)))
			w.h.Up(t)

			if diff := cmp.Diff(pooled, w.inPool(t)); diff != "" {
				t.Fatalf("in the pool (-before +after):\n%s", diff)
			}
			w.writable(t, "used")
			if d.lost {
				if r := w.h.Exec(t, "doctor"); r.Exit == 0 || !strings.Contains(r.Out, "drover store recover --from-pools") {
					t.Errorf("doctor: exit %d\n%s", r.Exit, r.Out)
				}
				w.h.Must(t, "store", "recover", "--from-pools")
			}
			if diff := cmp.Diff(before, w.records(t), asRebuilt()); diff != "" {
				t.Errorf("records (-before +after):\n%s", diff)
			}
			w.h.Restart(t)
			w.kept(t)
			w.release(t, "used")
			if !d.lost { // it stays mounted until it is known that nothing uses it
				w.inUse = []string{"used"}
			}
			w.removeFiles(t, ".damaged-")
			w.tidy(t)
			w.ok(t, w.plug.Create("fresh", nil))
		})
	}
}

// removeFiles removes files in the root that a person has examined, by a part of their name.
func (w *world) removeFiles(t testing.TB, part string) {
	t.Helper()
	for _, name := range names(t, w.h.Root) {
		if strings.Contains(name, part) {
			w.ok(t, os.Remove(filepath.Join(w.h.Root, name)))
		}
	}
}

// asRebuilt removes what is not restored in a record: the operation that wrote it last. The epoch grows, because
// nobody knows which node has the old one. The content counts as replaced, because a backup may be from another history.
func asRebuilt() cmp.Option {
	return cmp.Options{
		cmpopts.IgnoreFields(dataset.Dataset{}, "Request", "Epoch", "Content", "Trash"),
		cmpopts.IgnoreFields(dataset.Snapshot{}, "Request"),
	}
}

// peopled makes one thing of each kind: volumes with everything that a record can contain, a clone, snapshots, and
// trash. One volume is in use.
func (w *world) peopled(t testing.TB) {
	t.Helper()
	w.ok(t, w.plug.Create("labelled", map[string]string{
		"profile": "sized", "size": "400MiB", "label.team": "blue", "protect": "true", "owner": "999:998", "mode": "0750",
	}))
	w.write(t, "labelled", "labelled")
	w.make(t, "used", "plain", "used")
	w.snapshot(t, "used", "first")
	w.ok(t, w.plug.Create("copy@snapshot-"+w.snapshotID(t, "used", "first"), nil))
	w.volumes["copy"] = "used"
	w.write(t, "used", "used since")
	w.snapshot(t, "used", "second")
	w.ok(t, w.submit(t, api.Request{Kind: dataset.OpRestore, Volume: "used", Snapshot: "first"}))
	w.volumes["used"] = "used"
	w.make(t, "old", "plain", "old")
	w.ok(t, w.plug.Remove("old"))
	w.forget("old")
	w.trash["old"] = "old"
	w.make(t, "changed", "plain", "changed")
	w.ok(t, w.submit(t, api.Request{Kind: dataset.OpResize, Volume: "changed", Size: "11GiB"}))
	protect := true
	w.ok(t, w.submit(t, api.Request{Kind: dataset.OpUpdate, Volume: "changed", Protect: &protect}))
	w.use(t, "used")
	w.awaitRecords(t)
}

// awaitRecords waits until the records next to the data equal those of the store.
func (w *world) awaitRecords(t testing.TB) {
	t.Helper()
	path := w.poolPath(t, "default")
	host.Await(t, "the records beside the data are renewed", func() error {
		for _, v := range w.records(t).Datasets {
			b, err := os.ReadFile(filepath.Join(path, "datasets", v.ID.String(), "record.json"))
			if err != nil {
				return err
			}
			want := []string{v.Request.String(), fmt.Sprintf(`"state":%q`, v.State)}
			if v.Protected {
				want = append(want, `"protected":true`)
			}
			for _, s := range want {
				if !strings.Contains(string(b), s) {
					return fmt.Errorf("the record of %s does not say %s: %s", v.Volume, s, b)
				}
			}
		}
		return nil
	})
}

// records returns all records of datasets in the store.
type records struct {
	Datasets  []dataset.Dataset
	Snapshots []dataset.Snapshot
}

func (w *world) records(t testing.TB) (r records) {
	t.Helper()
	c := w.h.Client(t)
	defer c.Close()
	volumes, err := c.Volumes(t.Context(), api.Page{})
	w.ok(t, err)
	trash, err := c.Trash(t.Context(), api.Page{})
	w.ok(t, err)
	snapshots, err := c.Snapshots(t.Context(), "", api.Page{})
	w.ok(t, err)
	for _, v := range slices.Concat(volumes.Items, trash.Items) {
		r.Datasets = append(r.Datasets, v.Dataset)
	}
	r.Snapshots = snapshots.Items
	slices.SortFunc(r.Datasets, func(a, b dataset.Dataset) int { return strings.Compare(a.ID.String(), b.ID.String()) })
	slices.SortFunc(r.Snapshots, func(a, b dataset.Snapshot) int { return strings.Compare(a.ID.String(), b.ID.String()) })
	return r
}

// inPool lists the contents of the default pool, without what is made again when needed.
func (w *world) inPool(t testing.TB) (all []string) {
	t.Helper()
	path := w.poolPath(t, "default")
	for _, id := range names(t, filepath.Join(path, "datasets")) {
		for _, name := range names(t, filepath.Join(path, "datasets", id)) {
			all = append(all, filepath.Join(id, name))
		}
	}
	return all
}

// writable fails unless a volume in use can be written to at the path that its container uses.
func (w *world) writable(t testing.TB, name string) {
	t.Helper()
	v := w.mountPaths(t)
	if len(v) != 1 {
		t.Fatalf("mounted: %v, want volume %s alone", v, name)
	}
	w.ok(t, writeFile(filepath.Join(v[0], "still"), []byte(name)))
}
