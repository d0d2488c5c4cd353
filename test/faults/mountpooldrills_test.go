package faults

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/host"
)

// mountDrills: mount and unmount by an engine that got no answer.
func mountDrills() []drill {
	var id string
	mount := func(_ *testing.T, w *world) error {
		id = host.NewID()
		_, err := w.plug.Mount("base", id)
		return err
	}
	unmount := func(_ *testing.T, w *world) error { return w.plug.Unmount("base", id) }
	return []drill{{
		op: "mount", ask: mount,
		// The engine mounts with another ID, and never unmounts what it believes has failed.
		ends: func(t *testing.T, w *world, _ bool) { w.holds(t, "base", "base") },
		again: func(t *testing.T, w *world) {
			w.ok(t, w.plug.Unmount("base", id))
			w.holds(t, "base", "base")
		},
	}, {
		op: "unmount", ask: unmount,
		ready: func(t *testing.T, w *world) { w.ok(t, mount(t, w)) },
		ends: func(t *testing.T, w *world, _ bool) {
			assert.NoError(t, w.plug.Unmount("base", id))
		},
		again: func(t *testing.T, w *world) {
			assert.NoErrorf(t, unmount(t, w), "asked again")
		},
	}}
}

// use mounts a volume until release is called, or until the power is cut.
func (w *world) use(t testing.TB, name string) string {
	t.Helper()
	root, err := w.plug.Mount(name, userID)
	w.ok(t, err)
	w.inUse = append(w.inUse, name)
	return root
}

func (w *world) release(t testing.TB, name string) {
	t.Helper()
	w.ok(t, w.plug.Unmount(name, userID))
	w.inUse = slices.DeleteFunc(w.inUse, func(n string) bool { return n == name })
}

// tarOf returns an archive of a folder with a text.
func tarOf(text string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range map[string][]byte{"text": []byte(text), "block": block(text)} {
		h := tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o644, Format: tar.FormatPAX}
		if err := w.WriteHeader(&h); err != nil {
			panic(err) // a bytes.Buffer never fails
		}
		_, _ = w.Write(content)
	}
	_ = w.Close()
	return b.Bytes()
}

var userID = strings.Repeat("ab", 32)

// hasRoom fails unless df in a volume that is nearly empty shows that many bytes as free, within 3 %.
func (w *world) hasRoom(t testing.TB, name string, size int64) {
	t.Helper()
	w.plug.Within(t, name, func(root string) {
		if got := freeBytes(t, root); !isWithin3Percent(got, size) {
			t.Errorf("df in volume %s shows %d free bytes, want about %d", name, got, size)
		}
	})
}

const stepTime = 30 * time.Second

// poolDrills: a pool that was made by mistake is removed, or forgotten. An interrupted removal is completed, whatever
// prevented it, and the same path can be a pool again.
func poolDrills() []drill {
	var all []drill
	add := func(op, name string, forget bool) {
		path := func(w *world) string { return filepath.Join(w.h.Dir, "mistake") }
		ask := func(t *testing.T, w *world) error {
			c := w.h.Client(t)
			defer c.Close()
			_, err := c.RemovePool(t.Context(), "mistake", api.PoolRemoval{Forget: forget})
			return err
		}
		all = append(all, drill{
			op: op, name: name, only: []string{"loop"}, ask: ask,
			ready: func(t *testing.T, w *world) {
				c := w.h.Client(t)
				defer c.Close()
				_, err := c.CreatePool(t.Context(), api.NewPool{Name: "mistake", Backend: "dir", Path: path(w)})
				w.ok(t, err)
			},
			ends: func(t *testing.T, w *world, _ bool) {
				c := w.h.Client(t)
				defer c.Close()
				host.Await(t, "the pool goes", func() error {
					list, err := c.Pools(t.Context())
					for _, p := range list {
						if p.Name == "mistake" {
							err = errors.Join(err, fmt.Errorf("there is %+v", p))
						}
					}
					found, dErr := c.Doctor(t.Context())
					for _, f := range found {
						if f.Subject == "pool mistake" {
							dErr = errors.Join(dErr, fmt.Errorf("doctor has %+v", f))
						}
					}
					return errors.Join(err, dErr)
				})
				if _, err := os.Lstat(filepath.Join(path(w), "pool.json")); errors.Is(err, fs.ErrNotExist) == forget {
					t.Errorf("its place: %v", err)
				}
			},
			clear: func(t *testing.T, w *world) { w.ok(t, os.RemoveAll(path(w))) },
		})
	}
	add("pool-remove", "removed", false)
	add("pool-remove", "forgotten", true)
	add("shelf", "cleared in part", false)
	return all
}
