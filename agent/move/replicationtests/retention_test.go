package replication_test

import (
	"context"
	"crypto/rand"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// late is a control whose answers can be delayed.
type late struct {
	api.Service
	mu    sync.Mutex
	until chan struct{}
}

// delay makes all answers wait until the returned function is called.
func (l *late) delay() (end func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	until := make(chan struct{})
	l.until = until
	return sync.OnceFunc(func() { close(until) })
}

func (l *late) Sync(ctx context.Context, node uuid.UUID, rev uint64, wait time.Duration) (api.Sync, error) {
	s, err := l.Service.Sync(ctx, node, rev, wait)
	l.mu.Lock()
	until := l.until
	l.mu.Unlock()
	if until != nil {
		select {
		case <-until:
		case <-ctx.Done():
		}
	}
	return s, err
}

// A move to a replica that is based on a snapshot for another replica does not send data that the target has. That is
// also true if the home learns of the move when the target has the snapshot that it asked for: the target was given
// the same snapshot again.
func TestMoveToReplicaBasedOnSharedSnapshot(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	f.MayFailWith = "requires replicas on more nodes"
	c := f.AddHost("host-c", "loop")
	c.Start()
	f.A.Stop()
	control := &late{Service: f.Client}
	f.A.Config.Control = agenttest.FusedControl{Service: control, Host: f.A}
	f.A.Start()
	d := f.A.NewVolume("db@safer", map[string]string{"size": "320MiB"})
	agenttest.Await(t, func() bool { return !f.ReplicaTimeOn(f.B, "db").IsZero() && !f.ReplicaTimeOn(c, "db").IsZero() })
	f.B.Stop()
	c.Stop()
	const whole = 24 << 20
	bulk := make([]byte, whole)
	_, _ = rand.Read(bulk)
	f.A.WriteFile("db", "bulk", string(bulk))
	written := time.Now()
	for _, h := range []*agenttest.Host{c, f.B} { // the second is given the same snapshot as the first
		h.Start()
		agenttest.Await(t, func() bool { return f.ReplicaHasSince(h, "db", written) })
	}
	r, _ := f.B.Replicas.Copy(d.ID)
	e, err := f.A.Pool().Stat(t.Context(), d.ID)
	if i := host.IndexOf(e, r.Snapshot); err != nil || i < 0 || e.Snapshots[i].Request == f.B.Node() {
		t.Fatalf("what it has was taken for itself (%d of %d), %v", i, len(e.Snapshots), err)
	}

	heard := control.delay()
	t.Cleanup(heard)
	f.B.Fuse.Set(-1, false, func(act string) {
		if act == "recall" {
			heard()
		}
	})
	had := f.Network.BytesTo(f.B)
	f.Move("db", f.B)
	if came := f.Network.BytesTo(f.B) - had; came > whole/4 {
		t.Errorf("it was sent %d bytes of %d that it had", came, whole)
	}
	if got := f.B.ReadFile("db", "bulk"); got != string(bulk) {
		t.Error("it goes on with something else")
	}
}

// A home keeps the last snapshot that it sent to a node, for whomever it was taken and whatever other nodes get,
// until the node has a newer one. A restarted home relies on what control knows.
func TestHomeKeepsSnapshotsItSent(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	f.MayFailWith = "requires replicas on more nodes"
	c := f.AddHost("host-c", "loop")
	c.Start()
	d := f.A.NewVolume("db@safer", map[string]string{"size": "320MiB"})
	agenttest.Await(t, func() bool { return !f.ReplicaTimeOn(f.B, "db").IsZero() && !f.ReplicaTimeOn(c, "db").IsZero() })
	f.B.Stop()
	c.Stop()
	h := shelf{f.A, d}
	for name, of := range map[string]uuid.UUID{"all": uuid.Nil, "another": f.B.Node()} {
		f.A.WriteFile("db", "token", name)
		s := h.took(of)
		if got := h.gives(c); got.ID != s.ID {
			t.Fatalf("it is given %s, not the snapshot that was taken for %s", got.ID, name)
		}
		round := func() { // of the other replica
			for range move.SentKept + 1 {
				f.A.WriteFile("db", "token", uuid.NewString())
				h.took(uuid.Nil)
				h.has(f.B, h.took(f.B.Node()))
			}
		}
		round()
		if !h.keeps(s) {
			t.Errorf("the snapshot for %s is gone while it is transferred", name)
		}
		for range move.SentKept {
			round()
			h.has(c, h.gives(c, s.ID))
		}
		if !h.keeps(s) {
			t.Errorf("the snapshot for %s is gone, and the node has it", name)
		}
		last := h.took(uuid.Nil)
		if got := h.gives(c, last.ID); got.ID != last.ID || h.keeps(s) {
			t.Errorf("the snapshot for %s stays when the node has a newer one", name)
		}
		h.has(c, last)
		f.A.Restart()
		h = shelf{f.A, d}
		round()
		e, err := f.A.Pool().Stat(t.Context(), d.ID)
		if got := h.Retention.Received(t.Context(), c.Node(), d.ID, e); err != nil || !h.keeps(last) || len(got) != 1 || got[0].ID != last.ID {
			t.Errorf("begun anew it gives what it knows the node to have as %v, %v", got, err)
		}
	}
}

// A node that asks again and again before a snapshot has arrived may have a part of the first one. The home keeps
// that snapshot, also across its restart, until the node has it.
func TestHomeKeepsPartlySentSnapshots(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	h := shelf{f.A, f.A.NewVolume("db", map[string]string{"size": "320MiB"})}
	next := func(have ...uuid.UUID) dataset.Snapshot {
		t.Helper()
		f.A.WriteFile("db", "token", uuid.NewString())
		return h.gives(f.B, have...)
	}
	first := next()
	second := next()
	for range move.SentKept {
		next()
	}
	if !h.keeps(first) || h.keeps(second) {
		t.Error("of the first a part may have come, and of the second nothing has")
	}
	f.A.Restart()
	h = shelf{f.A, h.d}
	third := next()
	if !h.keeps(first) {
		t.Error("the restarted home does not keep the first snapshot any more")
	}
	last := next(first.ID)
	if !h.keeps(first) || !h.keeps(third) {
		t.Error("the first is what the next one is a difference to, of which a part may have come")
	}
	if next(last.ID); h.keeps(first) || h.keeps(third) || !h.keeps(last) {
		t.Error("it has the last, and the first ones stay")
	}
}

// on is a control that has recorded a move of each volume.
type on struct {
	api.Service
	move uuid.UUID
}

func (o on) Volume(ctx context.Context, ref string) (api.Volume, error) {
	v, err := o.Service.Volume(ctx, ref)
	v.Move = o.move
	return v, err
}

// A home that is restarted while a volume moves keeps the snapshots that the target may have been given, and the base
// of the last snapshot.
func TestI3RestartedHomeKeepsMovingSnapshots(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	control := r.Control
	for name, c := range map[string]struct {
		request uuid.UUID
		move    uuid.UUID
		base    bool
		want    int
	}{
		"taken for the target":              {request: uuid.New(), move: uuid.New()},
		"for a target of before":            {request: uuid.New(), want: 1},
		"for all":                           {move: uuid.New(), want: 1},
		"for all, and it is what goes last": {move: uuid.New(), base: true},
	} {
		s := dataset.Snapshot{ID: uuid.New(), Dataset: d.ID, Kind: dataset.SnapshotTransfer, Request: c.request, Epoch: 1, Created: r.Clock.Now()}
		last := s
		last.ID, last.Request, last.Created = host.FinalSnapshotID(c.move), c.move, s.Created.Add(time.Minute)
		e := backends.Entry{State: backends.EntryReady, Snapshots: []dataset.Snapshot{s, last}}
		r.Control = on{control, c.move}
		y := lease.Relinquished{Epoch: d.Epoch, Move: c.move, Manifest: &dataset.Manifest{Snapshot: last.ID}}
		if c.base {
			y.Manifest.Base = s.ID
		}
		require.NoError(t, r.Leases.Relinquish(t.Context(), d.ID, y))
		n := 0
		if err := r.Retention.Prune(t.Context(), deletes{lying{e: e}, &n}, d); err != nil || n != c.want {
			t.Errorf("%s: %d removed, %v", name, n, err)
		}
	}
	r.Control = control
}

// pruned records which snapshots are removed from a pool with one entry.
type pruned struct {
	lying
	gone *[]uuid.UUID
}

func (p pruned) DeleteSnapshot(_ context.Context, _, id uuid.UUID) error {
	*p.gone = append(*p.gone, id)
	return nil
}

// What a home has relinquished stays until the move has ended, even if a newer snapshot was taken for a replica: its
// last snapshot, which a crash may have kept out of the manifest, and the snapshot in the manifest.
func TestI3HomeKeepsRelinquishedSnapshots(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	control, move := r.Control, uuid.New()
	r.Control = on{control, move}
	at := func(id uuid.UUID, minute int) dataset.Snapshot {
		return dataset.Snapshot{ID: id, Dataset: d.ID, Kind: dataset.SnapshotTransfer, Epoch: 1, Created: r.Clock.Now().Add(time.Duration(minute) * time.Minute)}
	}
	older, base, last, newest := at(uuid.New(), 1), at(uuid.New(), 2), at(host.FinalSnapshotID(move), 3), at(uuid.New(), 4)
	e := backends.Entry{State: backends.EntryReady, Snapshots: []dataset.Snapshot{older, base, last, newest}}
	for name, c := range map[string]struct {
		manifest *dataset.Manifest
		gone     []uuid.UUID
	}{
		"without a manifest":      {nil, []uuid.UUID{older.ID, base.ID}},
		"with one":                {&dataset.Manifest{Snapshot: last.ID, Base: base.ID}, []uuid.UUID{older.ID}},
		"of what was sent before": {&dataset.Manifest{Snapshot: base.ID, Base: older.ID}, nil},
	} {
		require.NoError(t, r.Leases.Relinquish(t.Context(), d.ID, lease.Relinquished{Epoch: d.Epoch, Move: move, Manifest: c.manifest}))
		var gone []uuid.UUID
		if err := r.Retention.Prune(t.Context(), pruned{lying{e: e}, &gone}, d); err != nil || !slices.Equal(gone, c.gone) {
			t.Errorf("%s: %v are removed, want %v; %v", name, gone, c.gone, err)
		}
	}
	r.Control = control
}
