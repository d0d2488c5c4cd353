package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// drill is an operation that is interrupted at each of its steps.
type drill struct {
	op   string // prefix of the names of its steps
	name string // name of the drill, if an operation has several
	// only lists the backends that can do it; empty: all.
	only []string
	// ready prepares it, with Drover running.
	ready func(t *testing.T, w *world)
	// ask requests the operation and returns the answer.
	ask func(t *testing.T, w *world) error
	// ends checks how the operation ended and remembers the result. asked says that ask succeeded, so that only one
	// outcome is correct.
	ends func(t *testing.T, w *world, asked bool)
	// again requests the operation once more. It must succeed, or report that it is done.
	again func(t *testing.T, w *world)
	// clear removes what the operation made.
	clear func(t *testing.T, w *world)
}

// drills are the drills of all operations. If a drill needs a volume, "base" exists with a snapshot "first".
func drills() []drill {
	return slices.Concat(makingDrills(), snapshotDrills(), backupDrills(), endingDrills(), mountDrills(), poolDrills())
}

// have reports whether a volume of that name exists.
func (w *world) have(t testing.TB, name string) bool {
	t.Helper()
	c := w.h.Client(t)
	defer c.Close()
	_, err := c.Volume(t.Context(), name)
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

// made checks the result of an operation that makes a volume: the volume exists with its whole contents, or does not
// exist.
func made(name, text string) func(*testing.T, *world, bool) {
	return func(t *testing.T, w *world, asked bool) {
		if w.have(t, name) {
			w.volumes[name] = text
		} else if asked {
			t.Errorf("volume %s is missing, though its creation was acknowledged", name)
		}
	}
}

// makingDrills: create, clone and import, each requested by an engine, or with an operation on record.
func makingDrills() []drill {
	var all []drill
	add := func(op, name, text string, ask func(t *testing.T, w *world) error) {
		all = append(all, drill{
			op: op, name: name, ask: ask, ends: made("new", text),
			again: func(t *testing.T, w *world) {
				if err := ask(t, w); err != nil && !errors.Is(err, dataset.ErrExists) {
					t.Errorf("asked again: %v", err)
				}
				w.volumes["new"] = text
			},
			clear: func(t *testing.T, w *world) { w.drop(t, "new") },
		})
	}
	add("create", "by the engine", "", func(_ *testing.T, w *world) error { return w.plug.Create("new@plain", nil) })
	add("create", "on record", "", func(t *testing.T, w *world) error {
		return w.submit(t, api.Request{Kind: dataset.OpCreate, Volume: "new@plain"})
	})
	add("clone", "of a snapshot by the engine", "first", func(t *testing.T, w *world) error {
		return w.plug.Create("new@snapshot-"+w.snapshotID(t, "base", "first"), nil)
	})
	add("clone", "of a volume on record", "base", func(t *testing.T, w *world) error {
		return w.submit(t, api.Request{Kind: dataset.OpClone, Volume: "new", Options: map[string]string{"from": "base"}})
	})
	add("import", "of a folder", "imported", func(t *testing.T, w *world) error {
		from := filepath.Join(w.h.Dir, "from")
		if err := os.MkdirAll(from, 0o755); err != nil {
			return err
		}
		if err := fill(from, "imported"); err != nil {
			return err
		}
		return w.submit(t, api.Request{Kind: dataset.OpImport, Volume: "new", Path: from})
	})
	add("import", "of an archive", "base", func(t *testing.T, w *world) error {
		archive := filepath.Join(w.h.Dir, "archive.tar")
		if err := os.WriteFile(archive, tarOf("base"), 0o600); err != nil {
			return err
		}
		f, err := os.Open(archive)
		if err != nil {
			return err
		}
		defer f.Close()
		c := w.h.Client(t)
		defer c.Close()
		_, err = c.Import(t.Context(), api.Request{Volume: "new"}, f)
		return err
	})
	return all
}

// snapshotID returns the UUID of a snapshot, as recorded in the store.
func (w *world) snapshotID(t testing.TB, volume, name string) string {
	t.Helper()
	c := w.h.Client(t)
	defer c.Close()
	s, err := c.Snapshot(t.Context(), volume, name)
	require.NoError(t, err)
	return s.ID.String()
}

func (w *world) hasSnapshot(t testing.TB, volume, name string) bool {
	t.Helper()
	c := w.h.Client(t)
	defer c.Close()
	_, err := c.Snapshot(t.Context(), volume, name)
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

// snapshotDrills: snapshots of a frozen volume in use, and of an idle one; their removal, restore and resize.
func snapshotDrills() []drill {
	const loop = "loop"
	take := func(volume string) func(*testing.T, *world) error {
		return func(t *testing.T, w *world) error {
			return w.submit(t, api.Request{Kind: dataset.OpSnapshot, Volume: volume, Name: "new"})
		}
	}
	taken := func(volume, text string) func(*testing.T, *world, bool) {
		return func(t *testing.T, w *world, asked bool) {
			if w.hasSnapshot(t, volume, "new") {
				w.snapshots[volume+"/new"] = text
			} else if asked {
				t.Errorf("snapshot of %s is missing, though it was acknowledged", volume)
			}
		}
	}
	againExists := func(volume, text string) func(*testing.T, *world) {
		return func(t *testing.T, w *world) {
			if err := take(volume)(t, w); err != nil && !errors.Is(err, dataset.ErrExists) {
				t.Errorf("asked again: %v", err)
			}
			w.snapshots[volume+"/new"] = text
		}
	}
	idle := drill{
		op: "snapshot", name: "of an idle volume", ask: take("base"), ends: taken("base", "base"), again: againExists("base", "base"),
		clear: func(t *testing.T, w *world) {
			w.ok(t, w.submit(t, api.Request{Kind: dataset.OpSnapshotDelete, Volume: "base", Snapshot: "new"}))
			delete(w.snapshots, "base/new")
		},
	}
	remove := func(t *testing.T, w *world) error {
		return w.submit(t, api.Request{Kind: dataset.OpSnapshotDelete, Volume: "base", Snapshot: "old"})
	}
	removal := drill{
		op: "snapshot-delete", ask: remove,
		ready: func(t *testing.T, w *world) { w.snapshot(t, "base", "old") },
		ends: func(t *testing.T, w *world, asked bool) {
			if !w.hasSnapshot(t, "base", "old") {
				delete(w.snapshots, "base/old")
			} else if asked {
				t.Error("the snapshot still exists, though its removal was acknowledged")
			}
		},
		again: func(t *testing.T, w *world) {
			if err := remove(t, w); err != nil && !errors.Is(err, dataset.ErrNotFound) {
				t.Errorf("asked again: %v", err)
			}
			delete(w.snapshots, "base/old")
		},
	}
	frozen := drill{
		op: "snapshot", name: "of a frozen volume in use", only: []string{loop}, ask: take("ice"), ends: taken("ice", "ice"), again: againExists("ice", "ice"),
		ready: func(t *testing.T, w *world) {
			w.make(t, "ice", "frozen", "ice")
			w.use(t, "ice")
		},
		clear: func(t *testing.T, w *world) {
			w.release(t, "ice")
			w.drop(t, "ice")
		},
	}
	return []drill{idle, frozen, removal, restoreDrill(), resizeDrill(false), resizeDrill(true)}
}

// restoreDrill restores a volume to its first snapshot. The volume has the old or the new contents, complete, and its
// former contents are kept.
func restoreDrill() drill {
	ask := func(t *testing.T, w *world) error {
		return w.submit(t, api.Request{Kind: dataset.OpRestore, Volume: "back", Snapshot: "first"})
	}
	return drill{
		op: "restore", ask: ask,
		ready: func(t *testing.T, w *world) {
			w.make(t, "back", "plain", "then")
			w.snapshot(t, "back", "first")
			w.write(t, "back", "now")
		},
		ends: func(t *testing.T, w *world, asked bool) {
			var err error
			w.plug.Within(t, "back", func(root string) { err = compare(root, "then") })
			if err == nil {
				w.volumes["back"] = "then"
			} else if asked {
				t.Errorf("the restore was acknowledged: %v", err)
			}
		},
		again: func(t *testing.T, w *world) {
			w.ok(t, ask(t, w))
			w.volumes["back"] = "then"
			w.keepsRestored(t)
		},
		clear: func(t *testing.T, w *world) { w.drop(t, "back") },
	}
}

// keepsRestored fails unless a snapshot has what volume "back" contained before its restore.
func (w *world) keepsRestored(t testing.TB) {
	t.Helper()
	c := w.h.Client(t)
	defer c.Close()
	list, err := c.Snapshots(t.Context(), "back", api.Page{})
	w.ok(t, err)
	for _, s := range list.Items {
		if s.Kind != dataset.SnapshotRestore {
			continue
		}
		w.ok(t, w.plug.Create("look@snapshot-"+s.ID.String(), nil))
		var err error
		w.plug.Within(t, "look", func(root string) { err = compare(root, "now") })
		w.drop(t, "look")
		if err == nil {
			return
		}
	}
	t.Errorf("none of %d snapshots has what the volume contained before its restore", len(list.Items))
}

// resizeDrill makes a volume larger, in use or not.
func resizeDrill(inUse bool) drill {
	const before, after = 320 << 20, 480 << 20
	ask := func(t *testing.T, w *world) error {
		return w.submit(t, api.Request{Kind: dataset.OpResize, Volume: "size", Size: "480MiB"})
	}
	d := drill{
		op: "resize", name: "idle", only: []string{"loop"}, ask: ask,
		ready: func(t *testing.T, w *world) {
			w.make(t, "size", "sized", "size")
			if inUse {
				w.use(t, "size")
			}
		},
		ends: func(t *testing.T, w *world, asked bool) {
			got, want := w.volume(t, "size").Size, dataset.Size(before)
			if got != want {
				want = after
			}
			if got != want || (asked && want != after) {
				t.Errorf("size %s, asked for %s (acknowledged: %t)", got, dataset.Size(after), asked)
			}
			w.hasRoom(t, "size", int64(want))
		},
		again: func(t *testing.T, w *world) {
			w.ok(t, ask(t, w))
			w.hasRoom(t, "size", after)
		},
		clear: func(t *testing.T, w *world) {
			if inUse {
				w.release(t, "size")
			}
			w.drop(t, "size")
		},
	}
	if inUse {
		d.name = "in use"
	}
	return d
}

// endingDrills: delete into the trash, delete without a trash, and purge.
func endingDrills() []drill {
	var all []drill
	for name, ask := range map[string]func(*testing.T, *world) error{
		"by the engine": func(_ *testing.T, w *world) error { return w.plug.Remove("end") },
		"on record": func(t *testing.T, w *world) error {
			return w.submit(t, api.Request{Kind: dataset.OpDelete, Volume: "end"})
		},
	} {
		all = append(all, drill{
			op: "delete", name: name, ask: ask,
			ready: func(t *testing.T, w *world) { w.make(t, "end", "plain", "end") },
			ends: func(t *testing.T, w *world, asked bool) {
				if w.have(t, "end") {
					if asked {
						t.Error("the volume still exists, though its removal was acknowledged")
					}
					return
				}
				delete(w.volumes, "end")
				w.trash["end"] = "end"
			},
			again: func(t *testing.T, w *world) {
				if err := ask(t, w); err != nil && !errors.Is(err, dataset.ErrNotFound) {
					t.Errorf("asked again: %v", err)
				}
				delete(w.trash, "end")
				w.ok(t, w.submit(t, api.Request{Kind: dataset.OpUndelete, Volume: "end"}))
				w.volumes["end"] = "end"
			},
			clear: func(t *testing.T, w *world) { w.drop(t, "end") },
		})
	}
	purge := func(t *testing.T, w *world) error {
		return w.submit(t, api.Request{Kind: dataset.OpPurge, Volume: "end"})
	}
	all = append(all, drill{
		op: "purge", name: "of the trash", ask: purge,
		ready: func(t *testing.T, w *world) {
			w.make(t, "end", "plain", "end")
			w.snapshot(t, "end", "one")
			w.ok(t, w.plug.Remove("end"))
			w.forget("end")
			w.trash["end"] = "end"
		},
		ends: func(t *testing.T, w *world, _ bool) { w.purged(t) },
		again: func(t *testing.T, w *world) {
			assert.ErrorIsf(t, purge(t, w), dataset.ErrNotFound, "asked again")
		},
	}, drill{
		op: "purge", name: "by a removal", ask: func(_ *testing.T, w *world) error {
			if err := w.plug.Remove("end"); err != nil {
				return err
			}
			return errAsync // the purge follows later
		},
		ready: func(t *testing.T, w *world) { w.make(t, "end", "gone", "end") },
		ends: func(t *testing.T, w *world, _ bool) {
			w.forget("end")
			w.purged(t)
		},
	})
	return all
}

// errAsync is the answer of a request whose work continues after the answer.
var errAsync = errors.New("the work continues after the answer")

// purged fails unless the dataset of volume "end" is destroyed without another request: a purge that has begun ends,
// and nothing restores the dataset.
func (w *world) purged(t *testing.T) {
	delete(w.trash, "end")
	host.Await(t, "the purge ends", func() error {
		if n := len(names(t, filepath.Join(w.poolPath(t, "default"), "datasets"))); n != len(w.volumes)+len(w.trash) {
			return fmt.Errorf("%d datasets in the pool", n)
		}
		return nil
	})
}
