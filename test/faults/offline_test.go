package faults

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/host"
)

// twoPools is a host with its pool "default" and another one, "far", on a disk that can be removed.
func twoPools(t *testing.T) (w *world, far *disk) {
	t.Helper()
	shelf := scratch.Mount(t, "xfs", 8<<30)
	near := newDisk(t, shelf, "xfs", 2<<30)
	far = newDisk(t, shelf, "xfs", 2<<30)
	w = newWorld(t, host.Options{
		Root: filepath.Join(near.at, "root"),
		Config: fmt.Sprintf("pools:\n- {name: default, backend: loop, path: %s/pool}\n- {name: far, backend: loop, path: %s/pool}\n",
			near.at, far.at),
	})
	w.make(t, "here", "plain", "here")
	w.ok(t, w.plug.Create("there", map[string]string{"pool": "far"}))
	w.write(t, "there", "there")
	return w, far
}

// A pool whose disk is not mounted is offline, and its path is an empty folder. The pool is named and never made
// again, Mount of its volumes returns an error while all others work, and it comes online again without help.
func TestPoolOffline(t *testing.T) {
	w, far := twoPools(t)
	id := w.pool(t, "far").ID

	// While drover runs.
	far.unplug(t)
	w.offline(t, far)
	far.plugIn(t)
	w.kept(t)

	// The same over a restart.
	w.h.Stop(t)
	far.unplug(t)
	w.h.Up(t)
	w.offline(t, far)
	far.plugIn(t)
	host.Await(t, "the pool comes back", func() error {
		if st := w.pool(t, "far").Status; st == nil || !st.Online {
			return errors.New("it is offline")
		}
		return nil
	})
	if got := w.pool(t, "far").ID; got != id {
		t.Errorf("pool far is %s now, not %s", got, id)
	}
	w.kept(t)
	w.tidy(t)
}

// A purge while the pool is offline is pending deletion: the trash, doctor and the operation say so, and nothing says
// that the data is destroyed. It is destroyed within 30 s after the pool is online again. A rebuild of the store does
// not restore it.
func TestPurgeWhilePoolIsOffline(t *testing.T) {
	for name, storeLost := range map[string]bool{"pool returns": false, "store lost meanwhile": true} {
		t.Run(name, func(t *testing.T) {
			w, far := twoPools(t)
			id := w.volume(t, "there").ID
			w.ok(t, w.plug.Remove("there"))
			far.unplug(t)
			if out := w.h.Must(t, "trash", "purge", "there", "--yes"); !strings.Contains(out, "is pending deletion: pool far is offline") {
				t.Errorf("purge: %s", out)
			}
			w.pendingDeletion(t, id)
			w.h.Restart(t)
			w.pendingDeletion(t, id)
			if log := w.h.Log(); strings.Contains(log, "operation failed") {
				t.Error("the log has a failed operation")
			}
			if storeLost {
				w.h.Stop(t)
				w.ok(t, os.Remove(filepath.Join(w.h.Root, "store.db")))
				far.plugIn(t)
				w.h.Up(t)
				var rebuilt []api.Rebuilt
				w.h.JSON(t, &rebuilt, "store", "recover", "--from-pools")
				for _, r := range rebuilt {
					if r.Dataset == id && r.Action != "purging" {
						t.Errorf("the rebuild: %+v", r)
					}
				}
			} else {
				far.plugIn(t)
			}
			back := time.Now()
			host.Await(t, "the data is destroyed", func() error {
				if left := names(t, filepath.Join(far.at, "pool", "datasets")); len(left) > 0 {
					return fmt.Errorf("in the pool: %v", left)
				}
				if out := w.h.Must(t, "trash", "ls", "-q"); out != "" {
					return fmt.Errorf("in the trash: %s", out)
				}
				return nil
			})
			if took := time.Since(back); took > 30*time.Second {
				t.Errorf("the data was destroyed only after %s", took)
			}
			if out := w.h.Must(t, "events", "-o", "json"); !storeLost && strings.Count(out, `"destroyed"`) != 1 {
				t.Errorf("events: %s", out)
			}
			w.settled(t)
			w.forget("there")
			w.kept(t)
			w.h.Restart(t)
			w.kept(t)
			w.tidy(t)
		})
	}
}

// pendingDeletion fails unless a dataset in pool far is pending deletion in every way that counts.
func (w *world) pendingDeletion(t testing.TB, id uuid.UUID) {
	t.Helper()
	host.Await(t, "it is pending deletion", func() error {
		out := w.h.Must(t, "trash", "ls")
		if !strings.Contains(out, "pending deletion: ") || !strings.Contains(out, "far") {
			return fmt.Errorf("trash ls: %s", out)
		}
		r := w.h.Exec(t, "doctor")
		if n := strings.Count(r.Out, "is pending deletion since"); n != 1 || !strings.Contains(r.Out, id.String()) {
			return fmt.Errorf("doctor has %d findings: %s", n, r.Out)
		}
		if out := w.h.Must(t, "operation", "ls"); strings.Contains(out, "failed") || !strings.Contains(out, "pending deletion") {
			return fmt.Errorf("operation ls: %s", out)
		}
		return nil
	})
	if out := w.h.Must(t, "events", "-o", "json"); strings.Contains(out, `"destroyed"`) {
		t.Errorf("an event says that it is destroyed: %s", out)
	}
}

// offline fails unless pool "far" is offline in every way that counts.
func (w *world) offline(t testing.TB, far *disk) {
	t.Helper()
	if r := w.h.Exec(t, "doctor"); r.Exit == 0 || !strings.Contains(r.Out, "pool far") || !strings.Contains(r.Out, "offline") {
		t.Errorf("doctor does not name the pool: exit %d\n%s", r.Exit, r.Out)
	}
	_, err := w.plug.Mount("there", host.NewID())
	w.says(t, err, "pool far", "offline")
	w.says(t, w.plug.Create("new", map[string]string{"pool": "far"}), "far", "offline")
	if _, err := w.plug.Get("there"); err != nil {
		t.Errorf("get of a volume that is offline: %v", err)
	}
	listed, err := w.plug.List()
	w.ok(t, err)
	if want := []string{"here", "there"}; !slices.Equal(slices.Sorted(slices.Values(listed)), want) {
		t.Errorf("listed: %v, want %v", listed, want)
	}
	w.holds(t, "here", "here")
	w.make(t, "other", "plain", "other")
	w.drop(t, "other")
	if left := names(t, far.at); len(left) != 0 {
		t.Errorf("in the bare folder: %v", left)
	}
}

// says fails unless err is one line that says all of it.
func (w *world) says(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one that says %q", parts)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q does not say %q in one line", err, p)
		}
	}
}

// Another pool at the path of a pool is not taken for it.
func TestPoolExchanged(t *testing.T) {
	w, far := twoPools(t)
	w.h.Stop(t)
	own := far.image
	other := newDisk(t, filepath.Dir(far.image), "xfs", 1<<30)
	stranger := newWorld(t, host.Options{Config: fmt.Sprintf("pools: [{name: strange, backend: loop, path: %s/pool}]\n", other.at)})
	stranger.make(t, "secret", "plain", "secret")
	stranger.h.Stop(t)
	other.unplug(t)
	far.unplug(t)
	far.image = other.image
	far.plugIn(t)
	w.h.Up(t)
	_, err := w.plug.Mount("there", host.NewID())
	w.says(t, err, "pool far", "offline", "another pool")
	w.holds(t, "here", "here")
	before := names(t, filepath.Join(far.at, "pool", "datasets"))
	w.h.Restart(t)
	if after := names(t, filepath.Join(far.at, "pool", "datasets")); len(after) != 1 || !slices.Equal(before, after) {
		t.Errorf("the strange pool holds %v, then %v", before, after)
	}
	far.unplug(t)
	far.image = own
	far.plugIn(t)
	w.h.Restart(t)
	w.kept(t)
	w.tidy(t)
}

// The pool of a lost host is adopted by another one. All names are restored, and those that are in use are changed.
func TestPoolAdopted(t *testing.T) {
	old, far := twoPools(t)
	old.snapshot(t, "there", "first")
	old.ok(t, old.plug.Create("both", map[string]string{"pool": "far"}))
	old.write(t, "both", "of the old host")
	old.ok(t, old.plug.Create("waste", map[string]string{"pool": "far"}))
	old.ok(t, old.plug.Remove("waste"))
	old.h.Stop(t)

	w := newWorld(t, host.Options{})
	w.make(t, "both", "plain", "of the new host")
	var adopted struct {
		Pool    struct{ Name string }
		Rebuilt []api.Rebuilt
	}
	w.h.JSON(t, &adopted, "pool", "adopt", filepath.Join(far.at, "pool"))
	actions := map[string]string{}
	for _, r := range adopted.Rebuilt {
		actions[r.Action] = r.Volume
	}
	if want := []string{"renamed", "restored", "trashed"}; !slices.Equal(slices.Sorted(maps.Keys(actions)), want) {
		t.Errorf("adopted: %+v, want each of %v", adopted, want)
	}
	w.volumes["there"] = "there"
	w.volumes[actions["renamed"]] = "of the old host"
	w.snapshots["there/first"] = "there"
	w.trash["waste"] = ""
	w.kept(t)
	w.h.Restart(t)
	w.kept(t)
	w.h.Clean(t)
	if r := w.h.Exec(t, "pool", "adopt", filepath.Join(far.at, "pool")); r.Exit != 0 || !strings.Contains(r.Out, "known") {
		t.Errorf("adopted again: exit %d: %s%s", r.Exit, r.Out, r.Err)
	}
}

// Foreign files in a pool or next to it are never touched, and no pool is made where something exists.
func TestI4ForeignThings(t *testing.T) {
	w := newWorld(t, host.Options{})
	w.make(t, "base", "plain", "base")
	pool := w.poolPath(t, "default")
	foreign := []string{
		"notes.txt", "datasets/notes.txt", "incoming/backup", "deleting/important", "templates/mine.img",
		"datasets/00000000-0000-4000-8000-000000000001/precious", "incoming/00000000-0000-4000-8000-000000000002/precious",
	}
	for _, name := range foreign {
		path := filepath.Join(pool, name)
		w.ok(t, os.MkdirAll(filepath.Dir(path), 0o755))
		w.ok(t, os.WriteFile(path, []byte("precious"), 0o600))
	}
	w.h.Restart(t)
	w.drop(t, "base")
	w.h.Restart(t)
	for _, name := range foreign {
		if b, err := os.ReadFile(filepath.Join(pool, name)); err != nil || string(b) != "precious" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	out := w.h.Exec(t, "doctor").Out
	for _, name := range []string{"notes.txt", "datasets/notes.txt", "incoming/backup", "deleting/important", "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"} {
		if !strings.Contains(out, name) {
			t.Errorf("doctor does not name %s:\n%s", name, out)
		}
	}

	full := filepath.Join(w.h.Dir, "full")
	w.ok(t, os.MkdirAll(full, 0o755))
	w.ok(t, os.WriteFile(filepath.Join(full, "precious"), nil, 0o600))
	r := w.h.Exec(t, "pool", "create", "second", "--backend", "dir", "--path", full)
	if r.Exit == 0 || !slices.Equal(names(t, full), []string{"precious"}) {
		t.Errorf("a pool in a folder that holds something: exit %d, %v", r.Exit, names(t, full))
	}
	ext4 := scratch.Image(t, "ext4", scratch.Ext4)
	before, err := os.ReadFile(ext4)
	w.ok(t, err)
	r = w.h.Exec(t, "pool", "create", "third", "--backend", "loop", "--image", "1GiB", "--path", ext4)
	after, err := os.ReadFile(ext4)
	w.ok(t, err)
	if r.Exit == 0 || string(before) != string(after) {
		t.Errorf("a pool in an image that holds something: exit %d, changed: %t", r.Exit, string(before) != string(after))
	}
	if table, err := mount.Table(); err != nil || table.At(filepath.Join(w.h.Root, "pools", "third")) != nil {
		t.Errorf("it was mounted (%v)", err)
	}
}
