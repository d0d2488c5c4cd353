package faults

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/test/host"
)

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
