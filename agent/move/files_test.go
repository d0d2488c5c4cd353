package move_test

import (
	"context"
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

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/move"
	agentpool "github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// cutFiles is a connection to other nodes on which no files are transferred while it is cut.
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

// keeps reports whether a host has complete data of a dataset in its place: a copy with a snapshot, or the files.
func keeps(h *agenttest.Host, id uuid.UUID) bool {
	e, err := h.Pool().Stat(h.Cluster.Context(), id)
	return err == nil && (e.State == backends.EntryReady || e.State == backends.EntryCopy && len(e.Snapshots) > 0)
}

// left waits until a host knows that its volume has left, and the temporary data of moves on it is removed.
func left(h *agenttest.Host, id uuid.UUID) {
	h.Cluster.Helper()
	agenttest.Await(h.Cluster.T, func() bool {
		_, given := h.Leases.Relinquished(id)
		_, kept := h.Cache.Copy(id)
		_, comes := h.MoveTable.Get(id)
		if comes && !h.MoveTable.IsActive(id) {
			h.ResumeMoves(h.Cluster.Context())
		}
		return kept && !given && !comes && hasOnly(h, id)
	})
}

// hasOnly reports whether a dataset is the only entry of a host's pool.
func hasOnly(h *agenttest.Host, id uuid.UUID) bool {
	h.Cluster.Helper()
	list, err := h.Pool().List(h.Cluster.Context())
	require.NoError(h.Cluster, err)
	for _, e := range list {
		if e.ID != id {
			return false
		}
	}
	return len(list) == 1
}

// I3: if the transferred data has replaced the copy, and control then refuses to make this node the home, the
// transferred data becomes the copy.
func TestI3RefusedArrivalBecomesTheCopy(t *testing.T) {
	f := agenttest.NewCluster(t, "dir", "loop")
	d := f.A.NewVolume("db", nil)
	f.A.WriteFile("db", "token", "one")
	f.Move("db", f.B)
	f.B.WriteFile("db", "token", "two")
	left(f.A, d.ID)
	f.A.Fuse.Set(-1, false, func(act string) {
		if act != "commit" {
			return
		}
		f.A.Fuse.Mend()
		_, err := f.Service.CancelOperation(t.Context(), f.Recorded("db").Move.String())
		assert.NoError(t, err)
	})
	if op := f.AwaitEnd(f.BeginMove("db", f.A)); op.State != dataset.OpCancelled {
		t.Fatalf("%s: %+v", op.State, op.Problem)
	}
	for range 2 {
		left(f.A, d.ID)
		e, err := f.A.Pool().Stat(t.Context(), d.ID)
		if err != nil || e.State != backends.EntryReady || e.Record.Home != f.B.Node() {
			t.Fatalf("in the copy's place lies %+v, %v", e, err)
		}
		if got, err := os.ReadFile(filepath.Join(e.Path, "head", "token")); err != nil || string(got) != "two" {
			t.Errorf("it holds %q, %v", got, err)
		}
		f.A.Restart()
	}
	f.B.WantFile("db", "token", "two")
	f.B.WriteFile("db", "token", "three")
	f.Move("db", f.A)
	f.A.WantFile("db", "token", "three")
}

// fillingPool is a pool that is below its reserve once files were requested.
type fillingPool struct {
	backends.Pool
	http.RoundTripper
	full *atomic.Bool
}

func (p fillingPool) Status(ctx context.Context) dataset.PoolStatus {
	st := p.Pool.Status(ctx)
	if p.full.Load() {
		st.Free = backends.Reserve(st.Size) - 1
	}
	return st
}

func (p fillingPool) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.URL.Path, "/files") {
		p.full.Store(true)
	}
	return p.RoundTripper.RoundTrip(r)
}

// A move that copies files ends before it fills the pool of the new home, because the writers of other volumes there
// would lose the data that they have not synced. The volume stays where it is.
func TestFileMoveDoesNotFillPool(t *testing.T) {
	f := agenttest.NewCluster(t, "dir", "loop")
	f.A.NewVolume("db", nil)
	f.A.WriteFile("db", "token", "one")
	f.B.NewVolume("other", nil)
	f.B.Stop()
	pool := fillingPool{RoundTripper: f.B.Config.PeerHTTP, full: &atomic.Bool{}}
	f.B.Config.PeerHTTP = pool
	f.B.Start()
	f.B.Pools.Change(f.B.Pools.All()[0].ID, func(p *agentpool.Pool) { pool.Pool = p.Storage; p.Storage = pool })
	op := f.AwaitEnd(f.BeginMove("db", f.B))
	if op.State != dataset.OpFailed || op.Problem.Code != dataset.ErrNoSpace.Code ||
		!strings.Contains(op.Problem.Message, "would be free in its pool") {
		t.Errorf("the move is %s: %+v", op.State, op.Problem)
	}
	if home := f.Recorded("db").Home; home != f.A.Node() {
		t.Errorf("its home is node %s", home)
	}
}

// I3: data that is transferred file by file is stored beside the copy that it replaces. A move that does not end
// successfully leaves the copy as it was, and nothing else.
func TestI3FilesArriveBesideTheCopy(t *testing.T) {
	t.Parallel()
	for _, pools := range [][2]string{{"loop", "dir"}, {"dir", "loop"}} {
		t.Run("to "+pools[0], func(t *testing.T) {
			f := agenttest.NewCluster(t, pools[0], pools[1])
			d := f.A.NewVolume("db", nil)
			f.A.WriteFile("db", "token", "one")
			f.Move("db", f.B)
			f.B.WriteFile("db", "token", "two")
			left(f.A, d.ID)
			f.A.Stop()
			way := &cutFiles{RoundTripper: f.A.Config.PeerHTTP}
			way.cut.Store(true)
			full := &agenttest.FailingBackend{}
			f.A.Config.PeerHTTP = way
			if pools[0] == "dir" {
				f.A.Config.Backends = backends.NewRegistry(agenttest.FusedBackend{Kind: full, Host: f.A})
			}
			f.A.Start()

			op := f.BeginMove("db", f.A)
			agenttest.Await(t, func() bool { return way.asked.Load() > 0 })
			if !keeps(f.A, d.ID) {
				t.Error("the copy is gone before anything has come")
			}
			_, err := f.Service.CancelOperation(t.Context(), op.ID.String())
			require.NoError(t, err)
			f.AwaitEnd(op)
			left(f.A, d.ID)
			if !keeps(f.A, d.ID) {
				t.Error("a move that was cancelled took the copy away")
			}

			way.cut.Store(false)
			if pools[0] == "dir" {
				full.Refuse = dataset.Errorf(dataset.ErrNoSpace, "it is full")
				op = f.AwaitEnd(f.BeginMove("db", f.A))
				full.Refuse = nil
				if op.State != dataset.OpFailed || op.Problem.Code != dataset.ErrNoSpace.Code || !strings.Contains(op.Problem.Message, "free space for both") {
					t.Errorf("in a full pool: %s, %+v", op.State, op.Problem)
				}
				if !keeps(f.A, d.ID) {
					t.Error("a pool without room for both has neither")
				}
			}
			f.Move("db", f.A)
			f.A.WantFile("db", "token", "two")
			agenttest.Await(t, func() bool { return hasOnly(f.A, d.ID) })
			if pools[0] == "dir" {
				return
			}
			// A crash left the transferred data, and the volume was written to since: that stays.
			beside := d
			beside.ID, beside.Size = move.BesideID(d.ID, op.ID), 0
			_, err = f.A.Pool().Clone(t.Context(), beside, dataset.Source{Dataset: d.ID}, nil)
			f.A.WriteFile("db", "token", "three")
			if err = errors.Join(err, f.A.ReplaceCopyAtHome(t.Context(), f.A.Pool(), d, beside.ID)); err != nil {
				t.Error(err)
			}
			f.A.WantFile("db", "token", "three")
			assert.NoError(t, f.A.Pool().Delete(t.Context(), beside.ID))
		})
	}
}

// I3: the target of a file-by-file move crashes before and after every act. At each act it has its earlier data or
// all of the transferred data, and the move ends in the end.
func TestI3MoveOfFilesCrashesAtEveryAct(t *testing.T) {
	t.Parallel()
	list := [][2]string{{"loop", "dir"}, {"btrfs", "dir"}}
	if long.Enabled() {
		list = append(list, [2]string{"btrfs", "loop"})
	}
	for _, pools := range list {
		t.Run(pools[0]+" and "+pools[1], func(t *testing.T) {
			f := agenttest.NewCluster(t, pools[0], pools[1])
			if pools[0] == "loop" || long.Enabled() {
				filesMovesCutShort(f, []*agenttest.Host{f.A, f.B}, false, true)
			} else {
				filesMovesCutShort(f, []*agenttest.Host{f.A}, false)
			}
		})
	}
}

func filesMovesCutShort(f *agenttest.Cluster, targets []*agenttest.Host, lates ...bool) {
	t := f.T
	d := f.A.NewVolume("db", nil)
	f.A.WriteFile("db", "token", "left")
	f.Move("db", f.B)
	left(f.A, d.ID)
	home := f.B
	ways := map[*agenttest.Host]*cutFiles{}
	for _, h := range []*agenttest.Host{f.A, f.B} {
		h.Stop()
		ways[h] = &cutFiles{RoundTripper: h.Config.PeerHTTP}
		h.Config.PeerHTTP = ways[h]
		// Nobody uses it, but on a loaded machine this takes a while to find out.
		h.Config.Timing.InUseWait = 30 * time.Second
		h.Start()
	}
	for _, late := range lates {
		for _, target := range targets {
			if len(targets) == len(lates) && late == (target == f.A) && !long.Enabled() {
				continue // the one target crashes before each act, the other after each act
			}
			for n := 0; ; n++ {
				if home == target { // move back, without a crash
					home = f.Other(target)
					f.Move("db", home)
					left(target, d.ID)
				}
				token := fmt.Sprint(target.NodeName, late, n)
				home.WriteFile("db", "token", token)
				gone := target.Fuse.Set(n, late, func(act string) {
					before := len(target.Fuse.Seen())
					p, _ := target.MoveTable.Get(d.ID)
					// Unless another act happened between the two reads.
					if p.Beside == uuid.Nil && !keeps(target, d.ID) && len(target.Fuse.Seen()) == before {
						t.Errorf("late %t, act %d: neither the earlier nor the transferred data exists, at %s", late, n, act)
					}
				})
				op := f.BeginMove("db", target)
				done := make(chan dataset.Operation, 1)
				go func() { done <- f.AwaitEnd(op) }()
				cut := false
				select {
				case <-gone:
					cut = true
					p, _ := target.MoveTable.Get(d.ID)
					// The data that was transferred is not transferred again.
					ways[target].cut.Store(p.Beside != uuid.Nil)
					target.Restart()
					op = <-done
				case op = <-done:
					target.Fuse.Mend()
				}
				ways[target].cut.Store(false)
				if op.State == dataset.OpDone {
					home = target
				}
				knows(home, d.ID)
				if got := home.ReadFile("db", "token"); got != token || f.Recorded("db").Home != home.Node() {
					t.Fatalf("late %t, cut at act %d of %v: operation %s, %+v: %s holds %q", late, n, target.Fuse.Seen(), op.State, op.Problem, home.NodeName, got)
				}
				agenttest.Await(t, func() bool { return hasOnly(home, d.ID) })
				if !cut {
					t.Logf("late %t: %v", late, target.Fuse.Seen())
					break
				}
			}
		}
	}
}

// knows waits until a host knows that it is the home of a dataset and that no move is in progress: an earlier mount
// is told to try again.
func knows(h *agenttest.Host, id uuid.UUID) {
	h.Cluster.Helper()
	agenttest.Await(h.Cluster.T, func() bool {
		d, known := h.Cache.Dataset(id)
		_, left := h.Cache.Copy(id)
		return known && !left && d.Home == h.NodeID && h.Leases.MayOpen(d, "look at") == nil
	})
}
