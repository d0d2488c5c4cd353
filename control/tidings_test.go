package control

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/notify"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// replica returns a further service on the store, which works by the real clock.
func replica(t tb, st store.Store) *Service {
	return New(Deps{
		Store: st, StoreName: "bolt", Clock: clock.System{}, Version: "test", Shared: true,
		Profiles: func() Profiles { return newProfiles() },
		Failed:   func(what string, err error) { t.Errorf("%s: %v", what, err) },
	})
}

// An agent that follows one replica hears of what goes through another, as do those
// who wait for an operation or follow the events.
func TestReplicasHearOfEachOther(t *testing.T) {
	st := openStore(t)
	a, b := replica(t, st), replica(t, st)
	defer a.Close()
	defer b.Close()
	e := &env{tb: t, Service: a, ctx: t.Context()}
	n := e.agent("n1")
	s, err := b.Sync(t.Context(), n.id, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	// b may be about to take in what lies there when it starts: then it tells all once.
	for s.Full {
		d := n.create("v-" + uuid.NewString()[:8])
		e.submit(api.Request{Kind: dataset.OpSnapshot, Volume: d.Volume}) // its own create does not wake an agent
		for told := false; !told; {
			if s, err = b.Sync(t.Context(), n.id, s.Rev, time.Minute); err != nil || s.Rev == 0 {
				t.Fatal(err)
			}
			told = slices.ContainsFunc(s.Datasets, func(x api.Indexed) bool { return x.ID == d.ID })
		}
	}
	events := make(chan api.Event, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- b.Events(ctx, 0, true, func(ev api.Event) error {
			if ev.Volume == "db" {
				events <- ev
				return errors.New("seen")
			}
			return nil
		})
	}()
	op := e.submit(api.Request{Kind: dataset.OpCreate, Volume: "db"}).Operation
	if s, err = b.Sync(t.Context(), n.id, s.Rev, time.Minute); err != nil || s.Full ||
		!slices.ContainsFunc(s.Operations, func(x dataset.Operation) bool { return x.ID == op.ID }) {
		t.Fatalf("%+v, %v", s, err)
	}
	waited := make(chan dataset.Operation, 1)
	go func() {
		got, err := b.Operation(t.Context(), op.ID.String(), time.Minute)
		if err != nil {
			t.Error(err)
		}
		waited <- got
	}()
	n.commit(*op)
	if got := <-waited; got.State != dataset.OpDone {
		t.Errorf("%+v", got)
	}
	if ev := <-events; ev.Type != "volume.create" {
		t.Errorf("%+v", ev)
	}
	if err := <-done; err == nil {
		t.Error("events ended by themselves")
	}
}

// Whatever the order in which transactions of a service end, and whatever is known
// of them: of each that was committed another service tells, or that everything is to
// be looked at.
func TestNothingIsMissed(t *testing.T) {
	st := openStore(t)
	rapid.Check(t, func(r *rapid.T) {
		talks, _ := newService(Deps{Store: st, Clock: clock.System{}, Shared: true, Failed: func(string, error) {}})
		hears, _ := newService(Deps{Store: st, Clock: clock.System{}, Shared: true, Failed: func(string, error) {}})
		defer talks.Close()
		defer hears.Close()
		x := &talk{T: r, st: st, talks: talks, hears: hears, node: uuid.New(), of: map[uuid.UUID]bool{}}
		x.hear()
		x.rev = hears.feed.Since(x.node, 0).Rev
		r.Repeat(map[string]func(*rapid.T){
			"begin":  func(*rapid.T) { x.begin() },
			"end":    func(r *rapid.T) { x.end(r) },
			"late":   func(*rapid.T) { x.late() },
			"burst":  func(*rapid.T) { x.burst() },
			"listen": func(*rapid.T) { x.hear() },
		})
		x.hear()
	})
}

type talk struct {
	*rapid.T
	st           store.Store
	talks, hears *Service
	h            hearing
	node         uuid.UUID
	rev          uint64
	open         []talking
	delayed      []talking          // of which nobody knows, and which are committed yet
	of           map[uuid.UUID]bool // committed since it was listened last
}

type talking struct {
	lane  *lane
	w     store.Write
	ds    uuid.UUID
	index uint64
}

func (x *talk) begin() {
	if len(x.open) == lanesMost {
		return
	}
	ds := uuid.New()
	l, w, err := x.talks.out.take(context.Background(), notify.Notice{Nodes: []uuid.UUID{x.node}, Datasets: []uuid.UUID{ds}})
	if err != nil {
		x.Fatal(err)
	}
	x.open = append(x.open, talking{l, w, ds, 0})
}

func (x *talk) end(r *rapid.T) {
	if len(x.open) == 0 {
		return
	}
	i := rapid.IntRange(0, len(x.open)-1).Draw(r, "which")
	t := x.open[i]
	x.open = slices.Delete(x.open, i, i+1)
	switch rapid.SampledFrom([]string{"committed", "committed", "refused", "unknown", "never"}).Draw(r, "outcome") {
	case "committed":
		t.index = x.commit(t)
		x.talks.out.done(t.lane, t.index, true)
	case "refused":
		x.talks.out.done(t.lane, 0, true)
	case "unknown":
		x.talks.out.done(t.lane, 0, false)
		x.delayed = append(x.delayed, t)
	case "never":
		x.talks.out.done(t.lane, 0, false)
	}
}

func (x *talk) commit(t talking) uint64 {
	index, err := x.st.Txn(context.Background(), nil, []store.Write{t.w})
	if err != nil {
		x.Fatal(err)
	}
	x.of[t.ds] = true
	return index
}

func (x *talk) late() {
	if len(x.delayed) > 0 {
		x.commit(x.delayed[0])
		x.delayed = x.delayed[1:]
	}
}

// burst is more than one value holds.
func (x *talk) burst() {
	for range toldMost + 1 {
		n := len(x.open)
		if x.begin(); len(x.open) == n {
			return
		}
		t := x.open[n]
		x.open = x.open[:n]
		t.index = x.commit(t)
		x.talks.out.done(t.lane, t.index, true)
	}
}

func (x *talk) hear() {
	if err := x.hears.hearNow(context.Background(), &x.h); err != nil {
		x.Fatal(err)
	}
	n := x.hears.feed.Since(x.node, x.rev)
	x.rev = n.Rev
	if !n.Full {
		for ds := range x.of {
			if !slices.Contains(n.Datasets, ds) {
				x.Fatalf("dataset %s changed, and nobody was told", ds)
			}
		}
	}
	clear(x.of)
}

// What a replica missed is not made up for by everybody looking at everything, as
// long as it lies there still.
func TestWhatLiesThereIsEnough(t *testing.T) {
	st := openStore(t)
	d := Deps{Store: st, Clock: clock.System{}, Shared: true, Failed: func(string, error) {}}
	talks, _ := newService(d)
	hears, _ := newService(d)
	defer talks.Close()
	defer hears.Close()
	node := uuid.New()
	var h hearing
	hear := func() notify.News {
		t.Helper()
		rev := hears.feed.Since(node, 0).Rev
		if err := hears.hearNow(t.Context(), &h); err != nil {
			t.Fatal(err)
		}
		return hears.feed.Since(node, rev)
	}
	say := func(n int) {
		for range n {
			if _, err := talks.update(t.Context(), func(x *record.Tx) error {
				x.Touch(uuid.New(), node)
				return x.Put("names/"+uuid.NewString(), record.Claim{ID: uuid.New()})
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := hear(); !n.Full {
		t.Error("what was before is not known to be the same")
	}
	for _, tc := range []struct {
		said int
		full bool
	}{{1, false}, {toldMost, false}, {0, false}, {toldMost + 1, true}, {3, false}} {
		say(tc.said)
		if n := hear(); n.Full != tc.full || !tc.full && len(n.Datasets) != tc.said {
			t.Errorf("%d changes: full %v, %d datasets", tc.said, n.Full, len(n.Datasets))
		}
	}
	// One lane, as one thing was done at a time.
	if list, err := st.List(t.Context(), record.RevPrefix, "", 0); err != nil || len(list) != 1 {
		t.Errorf("%d lanes, %v", len(list), err)
	}
}
