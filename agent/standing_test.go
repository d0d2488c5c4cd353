package agent

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// An agent names those of its boot that control may know: the one that was let in
// last, and those that tried since. Once it is let in itself they are over.
func TestPreviousIncarnations(t *testing.T) {
	r := newRig(t)
	onDisk := func() incarnations {
		t.Helper()
		var got incarnations
		if _, err := r.state.get(t.Context(), incarnationsKey, &got); err != nil {
			t.Fatal(err)
		}
		return got
	}
	known := []uuid.UUID{r.incarnation}
	if got := onDisk(); !slices.Equal(got.IDs, known) || got.Boot != r.boot || r.previous != nil {
		t.Errorf("%+v, after %v", got, r.previous)
	}
	r.link.away()
	for range 2 {
		r.restart()
		r.mu.Lock()
		previous := r.previous
		r.mu.Unlock()
		if !slices.Equal(previous, known) {
			t.Errorf("it names %v, want %v", previous, known)
		}
		known = append(known, r.incarnation)
		if got := onDisk(); !slices.Equal(got.IDs, known) {
			t.Errorf("%+v, want %v", got, known)
		}
	}
	r.link.back()
	await(t, func() bool {
		r.clock.Advance(r.Limits.Retry)
		return slices.Equal(onDisk().IDs, []uuid.UUID{r.incarnation})
	})
	// Of another boot it knows none: what was then cannot be alive.
	if err := r.state.put(t.Context(), map[string]any{incarnationsKey: incarnations{"another", known}}); err != nil {
		t.Fatal(err)
	}
	r.link.away()
	r.restart()
	if got := onDisk(); len(r.previous) != 0 || !slices.Equal(got.IDs, []uuid.UUID{r.incarnation}) {
		t.Errorf("%+v, after %v", got, r.previous)
	}
}

// However often it is started in vain, what control may know is not pushed out.
func TestPreviousIncarnationsAreBounded(t *testing.T) {
	r := newRig(t)
	first := r.incarnation
	many := incarnations{r.boot, []uuid.UUID{first}}
	for range 2 * incarnationsKept {
		many.IDs = append(many.IDs, uuid.New())
	}
	if err := r.state.put(t.Context(), map[string]any{incarnationsKey: many}); err != nil {
		t.Fatal(err)
	}
	r.link.away()
	r.restart()
	if n := len(r.previous); n != incarnationsKept || r.previous[0] != first || r.previous[n-1] != many.IDs[2*incarnationsKept] {
		t.Errorf("%d, from %s to %s", n, r.previous[0], r.previous[n-1])
	}
}

// replicaFake is one control replica whose answers a test gives.
type replicaFake struct {
	api.Service

	mu         sync.Mutex
	renewed    chan struct{}
	standing   api.Standing
	err        error
	registered int
	beats      []api.Heartbeat
}

func (f *replicaFake) Renew(context.Context, uuid.UUID, uuid.UUID) (api.Standing, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case f.renewed <- struct{}{}:
	default:
	}
	return f.standing, f.err
}

func (f *replicaFake) Register(ctx context.Context, r api.Registration) error {
	f.mu.Lock()
	f.registered++
	f.mu.Unlock()
	return f.Service.Register(ctx, r)
}

func (f *replicaFake) registrations() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.registered
}

func (f *replicaFake) answers(ttl time.Duration, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.standing, f.err = api.Standing{TTL: dataset.Duration(ttl)}, err
}

// An agent renews five times in the time for which one word of it holds, registers
// again when that was over, and knows since when control counts.
func TestAgentRenews(t *testing.T) {
	var f *replicaFake
	r := newRig(t, func(c *Config) {
		f = &replicaFake{Service: c.Control, renewed: make(chan struct{}, 1)}
		f.answers(10*time.Second, nil)
		c.Control = f
	})
	<-f.renewed
	await(t, func() bool { _, ttl := r.Standing(); return ttl == 10*time.Second })
	next := func() {
		t.Helper()
		await(t, func() bool {
			r.clock.Advance(2 * time.Second)
			select {
			case <-f.renewed:
				return true
			default:
				return false
			}
		})
	}
	before, _ := r.Standing()
	next()
	await(t, func() bool { at, _ := r.Standing(); return at > before })
	had := f.registrations()
	f.answers(0, dataset.Errorf(dataset.ErrStale, "nothing was heard of it"))
	next()
	await(t, func() bool { return f.registrations() > had })
	// While nobody answers it is said once, and what control last heard stays.
	f.answers(0, dataset.Errorf(dataset.ErrUnavailable, "away"))
	next()
	at, ttl := r.Standing()
	next()
	if now, _ := r.Standing(); now != at || ttl != 10*time.Second {
		t.Errorf("renewed at %s, then at %s", at, now)
	}
}

func (f *replicaFake) Heartbeat(ctx context.Context, node uuid.UUID, h api.Heartbeat) error {
	if f.Service != nil {
		return f.Service.Heartbeat(ctx, node, h)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	if h.Whole && len(f.beats) == 0 {
		return dataset.Errorf(dataset.ErrConflict, "nothing was heard of it")
	}
	f.beats = append(f.beats, h)
	return nil
}

// told is what was told since the last call, and whether it was all there is.
func (f *replicaFake) told() (ids []uuid.UUID, beats int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range f.beats {
		for _, d := range h.Datasets {
			ids = append(ids, d.ID)
		}
	}
	n := len(f.beats)
	f.beats = f.beats[:min(n, 1)] // it knows of the node
	if n > 0 {
		f.beats[0].Datasets = nil
	}
	return ids, n
}

// Every replica is told of what changes. One that was away, or was started anew, is
// told all there is.
func TestEveryReplicaIsTold(t *testing.T) {
	r := newRig(t)
	db, other := r.volume("db"), r.volume("other")
	x, y := &replicaFake{}, &replicaFake{}
	r.apart = []api.Service{x, y} // of what the heartbeats use, only how many
	all := newTellers(r.apart)
	ids := []uuid.UUID{db.ID}
	expect := func(what string, f *replicaFake, want ...uuid.UUID) {
		t.Helper()
		got, _ := f.told()
		for _, l := range [][]uuid.UUID{got, want} {
			slices.SortFunc(l, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: told of %v, want %v", what, got, want)
		}
	}
	r.tell(t.Context(), all, ids)
	expect("at first", x, db.ID, other.ID)
	expect("at first", y, db.ID, other.ID)
	r.tell(t.Context(), all, ids)
	expect("what changed", x, db.ID)
	expect("what changed", y, db.ID)
	// One is away: the other is told on, and it all when it is back.
	x.answers(0, dataset.Errorf(dataset.ErrUnavailable, "away"))
	r.tell(t.Context(), all, ids)
	expect("away", x)
	expect("the other", y, db.ID)
	x.answers(0, nil)
	r.tell(t.Context(), all, ids)
	if _, n := x.told(); n != 1 { // the one from before: it was not asked again
		t.Errorf("one that is away was asked before the next round")
	}
	y.told()
	all.tryAgain()
	r.tell(t.Context(), all, ids)
	expect("back", x, db.ID, other.ID)
	expect("the other", y, db.ID)
	// One is started anew.
	y.mu.Lock()
	y.beats = nil
	y.mu.Unlock()
	r.tell(t.Context(), all, ids)
	r.tell(t.Context(), all, nil)
	expect("anew", y, db.ID, other.ID)
}
