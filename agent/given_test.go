package agent

import (
	"context"
	"crypto/rand"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/lineage"
	"github.com/droverhq/drover/agent/replication"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// late is a control that is heard late, once it is told so.
type late struct {
	api.Service
	mu    sync.Mutex
	until chan struct{}
}

// delay has all that is heard of it wait until the function that it returns is called.
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

// A move to a replica that rests on a snapshot for another one sends nothing of what that has,
// also where the home hears of the move when the target has what it asked for: it was given the
// same one again.
func TestMoveToWhatRestsOnAnothers(t *testing.T) {
	f := newFlock(t, "loop", "loop")
	f.may = "wants replicas on more nodes"
	c := f.host("host-c", "loop")
	c.up()
	f.a.down()
	control := &late{Service: f.link}
	f.a.cfg.Control = fusedControl{control, f.a}
	f.a.up()
	d := f.a.volume("db@safer", map[string]string{"size": "320MiB"})
	await(t, func() bool { return !f.upToOn(f.b, "db").IsZero() && !f.upToOn(c, "db").IsZero() })
	f.b.down()
	c.down()
	const whole = 24 << 20
	bulk := make([]byte, whole)
	_, _ = rand.Read(bulk)
	f.a.writes("db", "bulk", string(bulk))
	written := time.Now()
	for _, h := range []*flockHost{c, f.b} { // the second is given what the first was
		h.up()
		await(t, func() bool { return f.hasSince(h, "db", written) })
	}
	r, _ := f.b.replicas.Copy(d.ID)
	e, err := f.a.thePool().Stat(t.Context(), d.ID)
	if i := lineage.IndexOf(e, r.Snapshot); err != nil || i < 0 || e.Snapshots[i].Request == f.b.Node() {
		t.Fatalf("what it has was taken for itself (%d of %d), %v", i, len(e.Snapshots), err)
	}

	heard := control.delay()
	t.Cleanup(heard)
	f.b.fuse.set(-1, false, func(act string) {
		if act == "recall" {
			heard()
		}
	})
	had := f.wires.broughtTo(f.b)
	f.moves("db", f.b)
	if came := f.wires.broughtTo(f.b) - had; came > whole/4 {
		t.Errorf("it was sent %d bytes of %d that it had", came, whole)
	}
	if got := f.b.reads("db", "bulk"); got != string(bulk) {
		t.Error("it goes on with something else")
	}
}

// What a node was given last its home keeps, whoever it was taken for and whatever others are
// given, until the node has what is newer: one that is begun anew goes by what control knows.
func TestHomeKeepsWhatItGave(t *testing.T) {
	f := newFlock(t, "loop", "loop")
	f.may = "wants replicas on more nodes"
	c := f.host("host-c", "loop")
	c.up()
	d := f.a.volume("db@safer", map[string]string{"size": "320MiB"})
	await(t, func() bool { return !f.upToOn(f.b, "db").IsZero() && !f.upToOn(c, "db").IsZero() })
	f.b.down()
	c.down()
	h := shelf{f.a, d}
	for name, of := range map[string]uuid.UUID{"all": uuid.Nil, "another": f.b.Node()} {
		f.a.writes("db", "token", name)
		s := h.took(of)
		if got := h.gives(c); got.ID != s.ID {
			t.Fatalf("it is given %s, and not what was taken for %s", got.ID, name)
		}
		round := func() { // of the other
			for range replication.SentKept + 1 {
				f.a.writes("db", "token", uuid.NewString())
				h.took(uuid.Nil)
				h.has(f.b, h.took(f.b.Node()))
			}
		}
		round()
		if !h.keeps(s) {
			t.Errorf("what was taken for %s is gone while it is brought", name)
		}
		for range replication.SentKept {
			round()
			h.has(c, h.gives(c, s.ID))
		}
		if !h.keeps(s) {
			t.Errorf("what was taken for %s is gone, and it is what the node has", name)
		}
		last := h.took(uuid.Nil)
		if got := h.gives(c, last.ID); got.ID != last.ID || h.keeps(s) {
			t.Errorf("what was taken for %s stays when the node has what is newer", name)
		}
		h.has(c, last)
		f.a.again()
		h = shelf{f.a, d}
		round()
		e, err := f.a.thePool().Stat(t.Context(), d.ID)
		if got := h.retention.Received(t.Context(), c.Node(), d.ID, e); err != nil || !h.keeps(last) || len(got) != 1 || got[0].ID != last.ID {
			t.Errorf("begun anew it gives what it knows the node to have as %v, %v", got, err)
		}
	}
}

// Who asks again before what it was given has come, again and again, may have a part of the
// first: its home keeps that, also where it was begun anew meanwhile, until the node has it.
func TestHomeKeepsWhatIsBegun(t *testing.T) {
	f := newFlock(t, "loop", "loop")
	h := shelf{f.a, f.a.volume("db", map[string]string{"size": "320MiB"})}
	next := func(have ...uuid.UUID) dataset.Snapshot {
		t.Helper()
		f.a.writes("db", "token", uuid.NewString())
		return h.gives(f.b, have...)
	}
	first := next()
	second := next()
	for range replication.SentKept {
		next()
	}
	if !h.keeps(first) || h.keeps(second) {
		t.Error("of the first a part may have come, and of the second nothing has")
	}
	f.a.again()
	h = shelf{f.a, h.d}
	third := next()
	if !h.keeps(first) {
		t.Error("begun anew it does not keep the first any more")
	}
	last := next(first.ID)
	if !h.keeps(first) || !h.keeps(third) {
		t.Error("the first is what the next one is a difference to, of which a part may have come")
	}
	if next(last.ID); h.keeps(first) || h.keeps(third) || !h.keeps(last) {
		t.Error("it has the last, and the first ones stay")
	}
}

// on is a control that has a move of each volume on record.
type on struct {
	api.Service
	move uuid.UUID
}

func (o on) Volume(ctx context.Context, ref string) (api.Volume, error) {
	v, err := o.Service.Volume(ctx, ref)
	v.Move = o.move
	return v, err
}

// A home that was begun anew while a volume moves keeps what the target may have been given,
// and what the last snapshot is a difference to.
func TestI3HomeBegunAnewKeepsWhatMoves(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	r.sender = r.newSender(nil)
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
		last.ID, last.Request, last.Created = lineage.FinalID(c.move), c.move, s.Created.Add(time.Minute)
		e := backends.Entry{State: backends.EntryReady, Snapshots: []dataset.Snapshot{s, last}}
		r.Control = on{control, c.move}
		y := lease.Relinquished{Epoch: d.Epoch, Move: c.move, Manifest: &dataset.Manifest{Snapshot: last.ID}}
		if c.base {
			y.Manifest.Base = s.ID
		}
		if err := r.leases.Relinquish(t.Context(), d.ID, y); err != nil {
			t.Fatal(err)
		}
		n := 0
		if err := r.retention.Prune(t.Context(), deletes{lying{e: e}, &n}, d); err != nil || n != c.want {
			t.Errorf("%s: %d removed, %v", name, n, err)
		}
	}
	r.Control = control
}
