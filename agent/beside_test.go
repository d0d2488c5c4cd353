package agent

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/replication"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/long"
)

// cutFiles is a way to other nodes on which no files come while it is cut.
type cutFiles struct {
	http.RoundTripper
	cut   atomic.Bool
	asked atomic.Int32
}

func (c *cutFiles) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.URL.Path, "/files") && c.cut.Load() {
		c.asked.Add(1)
		return nil, errors.New("no route to host")
	}
	return c.RoundTripper.RoundTrip(r)
}

// keeps reports whether a host has something of a dataset that is whole in its place: a copy with
// a snapshot, or the files.
func (h *flockHost) keeps(id uuid.UUID) bool {
	e, err := h.thePool().Stat(h.f.Context(), id)
	return err == nil && (e.State == backends.EntryReady || e.State == backends.EntryCopy && len(e.Snapshots) > 0)
}

// left waits until a host knows that it was left, and what moves made there is gone.
func (h *flockHost) left(id uuid.UUID) {
	h.f.Helper()
	await(h.f.T, func() bool {
		_, given := h.leases.Relinquished(id)
		_, kept := h.Cache.Copy(id)
		_, comes := h.moveTable.Get(id)
		if comes && !h.moveTable.IsActive(id) {
			h.installer.Resume(h.f.Context())
		}
		return kept && !given && !comes && h.hasOnly(id)
	})
}

// hasOnly reports whether a dataset is all that lies in a host's pool.
func (h *flockHost) hasOnly(id uuid.UUID) bool {
	h.f.Helper()
	list, err := h.thePool().List(h.f.Context())
	if err != nil {
		h.f.Fatal(err)
	}
	for _, e := range list {
		if e.ID != id {
			return false
		}
	}
	return len(list) == 1
}

// I3: where what came has taken the place of the copy, and control refuses that this is the home,
// what came is the copy.
func TestI3RefusedInThePlaceOfTheCopy(t *testing.T) {
	f := newFlock(t, "dir", "loop")
	d := f.a.volume("db", nil)
	f.a.writes("db", "token", "one")
	f.moves("db", f.b)
	f.b.writes("db", "token", "two")
	f.a.left(d.ID)
	f.a.fuse.set(-1, false, func(act string) {
		if act != "commit" {
			return
		}
		f.a.fuse.mend()
		if _, err := f.svc.CancelOperation(t.Context(), f.record("db").Move.String()); err != nil {
			t.Error(err)
		}
	})
	if op := f.ended(f.begins("db", f.a)); op.State != dataset.OpCancelled {
		t.Fatalf("%s: %+v", op.State, op.Problem)
	}
	for range 2 {
		f.a.left(d.ID)
		e, err := f.a.thePool().Stat(t.Context(), d.ID)
		if err != nil || e.State != backends.EntryReady || e.Record.Home != f.b.Node() {
			t.Fatalf("in the copy's place lies %+v, %v", e, err)
		}
		if got, err := os.ReadFile(filepath.Join(e.Path, "head", "token")); err != nil || string(got) != "two" {
			t.Errorf("it holds %q, %v", got, err)
		}
		f.a.again()
	}
	if got := f.b.reads("db", "token"); got != "two" {
		t.Errorf("its home has %q", got)
	}
	f.b.writes("db", "token", "three")
	f.moves("db", f.a)
	if got := f.a.reads("db", "token"); got != "three" {
		t.Errorf("it came with %q", got)
	}
}

// I3: what comes file by file comes beside the copy that it replaces. A move that does not come
// to its end leaves the copy as it was, and nothing else.
func TestI3FilesComeBesideTheCopy(t *testing.T) {
	t.Parallel()
	for _, pools := range [][2]string{{"loop", "dir"}, {"dir", "loop"}} {
		t.Run("to "+pools[0], func(t *testing.T) {
			f := newFlock(t, pools[0], pools[1])
			d := f.a.volume("db", nil)
			f.a.writes("db", "token", "one")
			f.moves("db", f.b)
			f.b.writes("db", "token", "two")
			f.a.left(d.ID)
			f.a.down()
			way := &cutFiles{RoundTripper: f.a.cfg.PeerHTTP}
			way.cut.Store(true)
			full := &fussy{}
			f.a.cfg.PeerHTTP = way
			if pools[0] == "dir" {
				f.a.cfg.Backends = backends.NewRegistry(fusedKind{full, f.a})
			}
			f.a.up()

			op := f.begins("db", f.a)
			await(t, func() bool { return way.asked.Load() > 0 })
			if !f.a.keeps(d.ID) {
				t.Error("the copy is gone before anything has come")
			}
			if _, err := f.svc.CancelOperation(t.Context(), op.ID.String()); err != nil {
				t.Fatal(err)
			}
			f.ended(op)
			f.a.left(d.ID)
			if !f.a.keeps(d.ID) {
				t.Error("a move that was cancelled took the copy away")
			}

			way.cut.Store(false)
			if pools[0] == "dir" {
				full.refuse = dataset.Errorf(dataset.ErrNoSpace, "it is full")
				op = f.ended(f.begins("db", f.a))
				full.refuse = nil
				if op.State != dataset.OpFailed || op.Problem.Code != dataset.ErrNoSpace.Code || !strings.Contains(op.Problem.Message, "make room for both") {
					t.Errorf("in a full pool: %s, %+v", op.State, op.Problem)
				}
				if !f.a.keeps(d.ID) {
					t.Error("a pool without room for both has neither")
				}
			}
			f.moves("db", f.a)
			if got := f.a.reads("db", "token"); got != "two" {
				t.Errorf("it came with %q", got)
			}
			await(t, func() bool { return f.a.hasOnly(d.ID) })
			if pools[0] == "dir" {
				return
			}
			// A crash left what came, and the volume was written to since: that stays.
			beside := d
			beside.ID, beside.Size = replication.BesideID(d.ID, op.ID), 0
			_, err := f.a.thePool().Clone(t.Context(), beside, dataset.Source{Dataset: d.ID}, nil)
			f.a.writes("db", "token", "three")
			if err = errors.Join(err, f.a.installer.TakePlaceAtHome(t.Context(), f.a.thePool(), d, beside.ID)); err != nil {
				t.Error(err)
			}
			if got := f.a.reads("db", "token"); got != "three" {
				t.Errorf("what came took the place of what was written: %q", got)
			}
			if err := f.a.thePool().Delete(t.Context(), beside.ID); err != nil {
				t.Error(err)
			}
		})
	}
}

// I3: the target of a move file by file dies at every act, before it and after. At each of them
// it has what it was left with, or all that has come; and it all comes to its end.
func TestI3FilesMoveCutShort(t *testing.T) {
	t.Parallel()
	list := [][2]string{{"loop", "dir"}, {"btrfs", "dir"}}
	if long.Enabled() {
		list = append(list, [2]string{"btrfs", "loop"})
	}
	for _, pools := range list {
		t.Run(pools[0]+" and "+pools[1], func(t *testing.T) {
			f := newFlock(t, pools[0], pools[1])
			if pools[0] == "loop" || long.Enabled() {
				f.filesMovesCutShort([]*flockHost{f.a, f.b}, false, true)
			} else {
				f.filesMovesCutShort([]*flockHost{f.a}, false)
			}
		})
	}
}

func (f *flock) filesMovesCutShort(targets []*flockHost, lates ...bool) {
	t := f.T
	d := f.a.volume("db", nil)
	f.a.writes("db", "token", "left")
	f.moves("db", f.b)
	f.a.left(d.ID)
	home := f.b
	ways := map[*flockHost]*cutFiles{}
	for _, h := range []*flockHost{f.a, f.b} {
		h.down()
		ways[h] = &cutFiles{RoundTripper: h.cfg.PeerHTTP}
		h.cfg.PeerHTTP = ways[h]
		h.cfg.Limits.Lease = 30 * time.Second // nobody uses it: on a loaded machine it takes a while all the same
		h.up()
	}
	for _, late := range lates {
		for _, target := range targets {
			if len(targets) == len(lates) && late == (target == f.a) && !long.Enabled() {
				continue // the one dies before each act, the other after
			}
			for n := 0; ; n++ {
				if home == target { // back, without a cut
					home = f.other(target)
					f.moves("db", home)
					target.left(d.ID)
				}
				token := fmt.Sprint(target.NodeName, late, n)
				home.writes("db", "token", token)
				gone := target.fuse.set(n, late, func(act string) {
					before := len(target.fuse.seen())
					p, _ := target.moveTable.Get(d.ID)
					// Unless what another act does was seen in part.
					if p.Beside == uuid.Nil && !target.keeps(d.ID) && len(target.fuse.seen()) == before {
						t.Errorf("late %t, act %d: neither what was left nor what comes is there, at %s", late, n, act)
					}
				})
				op := f.begins("db", target)
				done := make(chan dataset.Operation, 1)
				go func() { done <- f.ended(op) }()
				cut := false
				select {
				case <-gone:
					cut = true
					p, _ := target.moveTable.Get(d.ID)
					ways[target].cut.Store(p.Beside != uuid.Nil) // what has come is not brought again
					target.again()
					op = <-done
				case op = <-done:
					target.fuse.mend()
				}
				ways[target].cut.Store(false)
				if op.State == dataset.OpDone {
					home = target
				}
				home.knows(d.ID)
				if got := home.reads("db", "token"); got != token || f.record("db").Home != home.Node() {
					t.Fatalf("late %t, cut at act %d of %v: operation %s, %+v: %s holds %q", late, n, target.fuse.seen(), op.State, op.Problem, home.NodeName, got)
				}
				await(t, func() bool { return home.hasOnly(d.ID) })
				if !cut {
					t.Logf("late %t: %v", late, target.fuse.seen())
					break
				}
			}
		}
	}
}

// knows waits until a host has heard that it is the home of a dataset, and of no move of it: a mount
// before that is told to ask again.
func (h *flockHost) knows(id uuid.UUID) {
	h.f.Helper()
	await(h.f.T, func() bool {
		d, known := h.Cache.Dataset(id)
		_, left := h.Cache.Copy(id)
		return known && !left && d.Home == h.NodeID && h.leases.MayOpen(d, "look at") == nil
	})
}
