package faults

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/host"
)

// hostConditions returns conditions of a host with its pools default and far, beside those of
// TestStatusNamesConditions. near is the mount point of the disk with the root and the pool default.
func hostConditions(near string, far *disk) []condition {
	var frozen api.Outcome
	var open *os.File
	var unfreeze func()
	return []condition{
		{
			name: "pool held", level: "error", subject: "pool far", text: "is held", fix: "drover pool accept far",
			cause: func(t *testing.T, w *world) {
				w.h.Stop(t)
				old, before := far.copy(t), far.generation(t)
				w.h.Up(t)
				host.Await(t, "the generation is raised", func() error {
					if far.generation(t) == before {
						return errors.New("it is not")
					}
					return nil
				})
				w.h.Stop(t)
				far.unplug(t)
				far.image = old
				far.plugIn(t)
				w.h.Up(t)
			},
			mend: func(t *testing.T, w *world) { w.h.Must(t, "pool", "accept", "far", "--yes") },
		},
		{
			name: "disk of the root filling up", level: "warning", subject: "root", text: "is filling up",
			fix:   "free space on that disk: df -h " + near,
			cause: func(t *testing.T, w *world) { w.ok(t, host.FillTo(near, 98)) },
			mend:  func(t *testing.T, w *world) { w.ok(t, os.Remove(filepath.Join(near, "filler"))) },
		},
		{
			name: "snapshot missing", level: "error", subject: "snapshot ", text: "is recorded but missing in pool far",
			fix: "drover snapshot inspect ",
			cause: func(t *testing.T, w *world) {
				w.snapshot(t, "there", "lost")
				w.ok(t, os.Rename(far.snapshotFile(t), filepath.Join(far.at, "lost")))
			},
			mend: func(t *testing.T, w *world) {
				id := w.snapshotID(t, "there", "lost")
				dir := filepath.Join(far.at, "pool", "datasets", w.volume(t, "there").ID.String())
				w.ok(t, os.Rename(filepath.Join(far.at, "lost"), filepath.Join(dir, id+".img")))
			},
		},
		{
			name: "snapshot late", level: "warning", subject: "volume there", text: "a snapshot is late",
			fix: "drover operation inspect --wait ",
			cause: func(t *testing.T, w *world) {
				unfreeze = freeze(t, far.at)
				frozen = w.begin(t, api.Request{Kind: dataset.OpSnapshot, Volume: "there", Name: "late"})
				w.h.SetClock(t, 11*time.Minute)
			},
			mend: func(t *testing.T, w *world) { w.thaw(t, unfreeze, frozen) },
		},
		{
			name: "scheduled snapshot failed", level: "warning", subject: "operation ", text: "snapshot of nightly failed",
			fix: "drover volume ls --sort -in_pool",
			cause: func(t *testing.T, w *world) {
				w.reload(t, profiles+`  nightly: {snapshots: {schedule: "* * * * *", keep: {last: 1}}, on_delete: purge}`)
				host.Await(t, "the volume is created", func() error {
					return w.plug.Create("nightly", map[string]string{"profile": "nightly", "pool": "far"})
				})
				w.ok(t, host.FillTo(far.at, 100))
				w.h.SetClock(t, time.Minute)
			},
			mend: func(t *testing.T, w *world) {
				w.ok(t, os.Remove(filepath.Join(far.at, "filler")))
				w.h.Must(t, "snapshot", "create", "nightly")
				w.h.Must(t, "volume", "rm", "nightly", "--yes")
				w.reload(t, profiles)
				w.h.SetClock(t, 0)
			},
		},
		{
			name: "operation takes long", level: "warning", subject: "operation ", text: "clone of ",
			fix: "drover operation inspect --wait ",
			cause: func(t *testing.T, w *world) {
				unfreeze = freeze(t, far.at)
				frozen = w.begin(t, api.Request{Kind: dataset.OpClone, Volume: "slow", Options: map[string]string{"from": "there"}})
				w.h.SetClock(t, 61*time.Minute)
			},
			mend: func(t *testing.T, w *world) { w.thaw(t, unfreeze, frozen) },
		},
		{
			name: "deletion waits for a pool", level: "warning", subject: "dataset ", text: "is pending deletion since",
			fix: "drover trash ls",
			cause: func(t *testing.T, w *world) {
				w.ok(t, w.plug.Create("doomed", map[string]string{"profile": "plain", "pool": "far"}))
				w.ok(t, w.plug.Remove("doomed"))
				far.unplug(t)
				w.h.Must(t, "trash", "purge", "doomed", "--yes")
			},
			mend: func(t *testing.T, _ *world) { far.plugIn(t) },
		},
		{
			name: "pool overcommitted", level: "warning", subject: "pool far", text: "more than 0.5",
			fix:   "drover pool ls",
			cause: func(t *testing.T, w *world) { w.configure(t, far.at+"/pool}", far.at+"/pool, overcommit: 0.5}") },
			mend:  func(t *testing.T, w *world) { w.configure(t, ", overcommit: 0.5}", "}") },
		},
		{
			name: "store damaged", level: "error", subject: "store", text: "changes are suspended",
			fix: "drover store recover --from-pools",
			cause: func(t *testing.T, w *world) {
				w.h.Stop(t)
				w.ok(t, os.WriteFile(filepath.Join(w.h.Root, "store.db"), []byte("damaged"), 0o600))
				w.h.Up(t)
			},
			mend: func(t *testing.T, w *world) {
				w.h.Must(t, "store", "recover", "--from-pools")
				aside, err := filepath.Glob(filepath.Join(w.h.Root, "store.db.damaged-*"))
				if err != nil || len(aside) != 1 {
					t.Fatal(aside, err)
				}
				w.ok(t, os.Remove(aside[0]))
			},
		},
		{
			name: "process keeps a volume mounted", level: "warning", subject: "mount ", text: "no recorded use",
			fix: "drover volume inspect small",
			cause: func(t *testing.T, w *world) {
				use := host.NewID()
				at, err := w.plug.Mount("small", use)
				w.ok(t, err)
				open, err = os.Create(filepath.Join(at, "open"))
				w.ok(t, err)
				w.says(t, w.plug.Unmount("small", use), "small", "still uses")
			},
			mend: func(t *testing.T, w *world) { w.ok(t, open.Close()) },
		},
	}
}

// configure replaces a text in drover.yaml and restarts drover.
func (w *world) configure(t *testing.T, old, text string) {
	t.Helper()
	file := filepath.Join(w.h.Dir, "drover.yaml")
	b, err := os.ReadFile(file)
	w.ok(t, err)
	w.h.Stop(t)
	w.ok(t, os.WriteFile(file, []byte(strings.Replace(string(b), old, text, 1)), 0o600))
	w.h.Up(t)
}

// begin requests an operation without waiting for its end.
func (w *world) begin(t *testing.T, req api.Request) api.Outcome {
	t.Helper()
	c := w.h.Client(t)
	defer c.Close()
	out, err := c.Submit(t.Context(), req)
	w.ok(t, err)
	return out
}

// thaw lets an operation on a frozen disk end.
func (w *world) thaw(t *testing.T, unfreeze func(), out api.Outcome) {
	t.Helper()
	unfreeze()
	w.h.Must(t, "operation", "inspect", "--wait", out.Operation.ID.String())
	w.h.SetClock(t, 0)
}

// snapshotFile returns the image of the only snapshot on the disk.
func (d *disk) snapshotFile(t *testing.T) string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(d.at, "pool", "datasets", "*", "????????-*.img"))
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	return list[0]
}

// generation returns the generation of the pool on the disk.
func (d *disk) generation(t *testing.T) uint64 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(d.at, "pool", "pool.json"))
	var is struct{ Generation uint64 }
	if err = errors.Join(err, json.Unmarshal(b, &is)); err != nil {
		t.Fatal(err)
	}
	return is.Generation
}
