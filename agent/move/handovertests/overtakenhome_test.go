package handover_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// homeUnheard returns a cluster in which the move of a volume to b is recorded. b could reach nobody since it
// reported that the move is done.
func homeUnheard(t *testing.T) (*agenttest.Cluster, dataset.Dataset) {
	f := agenttest.NewCluster(t, "loop", "loop")
	f.MayFailWith = "requires replicas on more nodes"
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB", "profile": "safe"})
	f.A.WriteFile("db", "token", "all of it")
	agenttest.Await(t, func() bool { _, checked := f.ReplicaTimes("db"); return !checked.IsZero() })
	gone := f.B.DieAfter("commit", 1)
	f.BeginMove("db", f.B)
	agenttest.AwaitDeath(t, gone)
	agenttest.Await(t, func() bool { return f.Recorded("db").Home == f.B.Node() })
	return f, d
}

// overtakes forces a move of the volume to another node without b.
func overtakes(f *agenttest.Cluster, d dataset.Dataset) {
	f.Helper()
	f.A.AwaitSettled(d.ID)
	out, err := f.Service.Submit(f.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: d.Volume, Node: "host-a", Force: true, Fenced: "host-b"})
	require.NoError(f, err)
	if op := f.AwaitEnd(*out.Operation); op.State != dataset.OpDone {
		f.Fatalf("%+v", op.Problem)
	}
}

// A node that became the home crashed before it learned so, and was superseded before it was reachable again. It
// keeps its head as a superseded copy in each order of events. It may examine its copies before it learns that it was
// superseded, as a node does that starts while control is unreachable. Or it may have no head any more.
func TestHomeSupersededBeforeItLearnedKeepsHead(t *testing.T) {
	for name, meanwhile := range map[string]func(*agenttest.Host, dataset.Dataset){
		"and looks at its copy first": func(h *agenttest.Host, d dataset.Dataset) {
			reached := h.Config.Control
			h.Config.Control = agenttest.UnreachableControl{Service: reached}
			h.Start()
			assert.NoError(h.Cluster, h.Copies.Reconcile(h.Cluster.Context(), d.ID))
			if e, err := h.Pool().Stat(h.Cluster.Context(), d.ID); err != nil || !e.Promoted {
				h.Cluster.Errorf("what a move made, which may be on record, is gone: %+v, %v", e, err)
			}
			h.Stop()
			h.Config.Control = reached
		},
		"and has no head": func(h *agenttest.Host, d dataset.Dataset) {
			pool := h.Pool()
			e, err := pool.Stat(h.Cluster.Context(), d.ID)
			require.NoError(h.Cluster, err)
			s, _ := host.Promotable(e)
			require.NoError(h.Cluster, pool.(agenttest.FusedImages).Copier.Demote(h.Cluster.Context(), d.ID, s.ID))
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, d := homeUnheard(t)
			f.B.Stop()
			overtakes(f, d)
			f.B.Fuse.Mend()
			meanwhile(f.B, d)
			f.B.Start()
			var kept uuid.UUID
			agenttest.Await(t, func() bool {
				v := f.Recorded("db")
				i := slices.IndexFunc(v.CopyDetails, func(c api.CopyDetail) bool { return c.Node == f.B.Node() })
				if i >= 0 && v.CopyDetails[i].Kind == dataset.CopySuperseded {
					kept = v.CopyDetails[i].Snapshot
				}
				return kept != uuid.Nil
			})
			if held := f.B.ReadSnapshot(d, kept, "token"); held != "all of it" {
				t.Errorf("the superseded copy holds %q", held)
			}
		})
	}
}

// A node that became the home was cut off before it learned so, and was superseded meanwhile. It repeats the report
// that was not answered. That the volume continues elsewhere does not make the node take it for its own, nor the
// store for one that was restored from a backup.
func TestHomeSupersededWhileCutOffAsksAgain(t *testing.T) {
	f, d := homeUnheard(t)
	overtakes(f, d)
	f.B.Fuse.Mend()
	agenttest.Await(t, func() bool {
		return slices.ContainsFunc(f.Recorded("db").CopyDetails, func(c api.CopyDetail) bool {
			return c.Node == f.B.Node() && c.Kind == dataset.CopySuperseded && c.Snapshot != uuid.Nil
		})
	})
	if known, ok := f.B.Cache.Dataset(d.ID); ok {
		t.Errorf("it is known as its own: %+v", known)
	}
	assert.NoError(t, f.B.Trust.Err())
}

// answering is a control that has not registered this node yet, but answers its requests.
type answering struct {
	agenttest.UnreachableControl
	volumes bool
}

func (c answering) Operation(ctx context.Context, ref string, wait time.Duration) (dataset.Operation, error) {
	return c.UnreachableControl.Service.Operation(ctx, ref, wait)
}

func (c answering) Volume(ctx context.Context, ref string) (api.Volume, error) {
	if !c.volumes {
		return c.UnreachableControl.Volume(ctx, ref)
	}
	return c.UnreachableControl.Service.Volume(ctx, ref)
}

// A node that became the home and crashed before it learned so keeps its head until it learns so, whatever control
// answers first.
func TestHomeThatCrashedBeforeItLearnedKeepsHead(t *testing.T) {
	f, d := homeUnheard(t)
	f.B.Stop()
	f.B.Fuse.Mend()
	reached := f.B.Config.Control
	for _, volumes := range []bool{false, true} {
		f.B.Config.Control = answering{agenttest.UnreachableControl{Service: reached}, volumes}
		f.B.Start()
		f.B.ResumeMoves(t.Context())
		assert.NoError(t, f.B.Copies.Reconcile(t.Context(), d.ID))
		if e, err := f.B.Pool().Stat(t.Context(), d.ID); err != nil || !e.Promoted {
			t.Errorf("volumes are told of: %t: the head is gone: %+v, %v", volumes, e, err)
		}
		if _, known := f.B.MoveTable.Get(d.ID); !known {
			t.Errorf("volumes are told of: %t: what a move brought is forgotten", volumes)
		}
		f.B.Stop()
	}
	f.B.Config.Control = reached
	f.B.Start()
	agenttest.Await(t, func() bool { return f.B.WouldOpen(d.ID) })
	f.B.WantFile("db", "token", "all of it")
	f.A.AwaitSettled(d.ID)
}

// A home that is reachable again finds that its volume was deleted meanwhile. It leaves the present users alone,
// opens the volume for nobody new, and has all of its data when an operator restores it.
func TestVolumeDeletedWithoutHomeKeepsItsUsers(t *testing.T) {
	t.Parallel()
	f := agenttest.NewBoundedCluster(t, time.Second)
	d := f.A.NewVolume("db", nil)
	f.A.WriteFile("db", "token", "kept")
	path := f.A.MustMount("db", "user")
	f.A.Agent.Cancel() // the agent stops, and the mount stays
	f.A.Stop()
	asked := api.Request{ID: uuid.New(), Kind: dataset.OpDelete, Volume: "db", Force: true, Fenced: "host-a"}
	agenttest.Await(t, func() bool { _, err := f.Service.Submit(t.Context(), asked); return err == nil })

	f.A.Start()
	agenttest.Await(t, func() bool { now, _ := f.A.Cache.Dataset(d.ID); return now.State == dataset.StateTrashed })
	assert.NoErrorf(t, os.WriteFile(filepath.Join(path, "late"), []byte("late"), 0o600), "its user is disturbed")
	if _, err := f.A.AddUse(t.Context(), d, 0, dataset.ParseReference("db"), "new"); dataset.KindOf(err) != dataset.ErrNotFound {
		t.Errorf("a new mount of the deleted volume: %v", err)
	}
	if _, err := f.A.Mount(t.Context(), "db", "new"); err == nil || !strings.Contains(err.Error(), "volume db was deleted, only containers that run use it (stop them, or restore it: drover trash restore "+d.ID.String()[:8]) {
		t.Errorf("a new mount by an engine: %v", err)
	}
	// An engine that stops a container asks for the volume first, and sends no Unmount if there is none.
	if v, err := f.A.Get(t.Context(), "db"); err != nil || v.Mountpoint != path {
		t.Errorf("the engine gets %+v, %v", v, err)
	}
	list, err := f.A.Doctor(t.Context())
	require.NoError(t, err)
	if !slices.ContainsFunc(list, func(is api.Finding) bool {
		return is.Level == "error" && is.Subject == "volume db" && strings.Contains(is.Text, "was deleted while this host was confirmed as fenced, but is in use here by 1") &&
			strings.HasSuffix(is.Fix, "drover trash restore "+d.ID.String()[:8])
	}) {
		t.Errorf("doctor: %+v", list)
	}
	_, err = f.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpUndelete, Volume: d.ID.String()})
	require.NoError(t, err)
	agenttest.Await(t, func() bool { now, _ := f.A.Cache.Dataset(d.ID); return now.State == dataset.StateReady })
	f.A.MustUnmount("db", "user")
	for file, want := range map[string]string{"token": "kept", "late": "late"} {
		if got := f.A.ReadFile("db", file); got != want {
			t.Errorf("%s holds %q", file, got)
		}
	}
}
