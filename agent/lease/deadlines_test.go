package lease

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/test/fakes"
)

// A node whose copy was superseded is not asked for a promise while control is silent, and the record of what it was
// given is dropped: no volume continues from that copy.
func TestSpentCopiesAreNotAsked(t *testing.T) {
	for _, spent := range []bool{false, true} {
		self := &host.Host{Clock: fakes.NewClock(time.Now()), Log: quiet(), Trust: host.NewTrust("")}
		b := New(self, nil, nil, nil, nil).Deadlines
		d := dataset.Dataset{ID: uuid.New(), Epoch: 3, Copies: []uuid.UUID{nodeP, nodeQ}, SupersededCopies: []uuid.UUID{nodeQ}}
		if spent {
			d.SupersededCopies = d.Copies
		}
		now := b.Clock.Steady()
		h := &boundedLease{epoch: d.Epoch, deadline: now + boundTTL, enrolled: map[uuid.UUID]enrolment{nodeP: {onDisk: true}}}
		b.registered[d.ID], b.leases[d.ID] = d.Epoch, h
		b.silent, b.controlSession.ttl = true, 10*boundTTL
		gone := h.unneededNodes(d, now+1)
		if (len(gone) == 1) != spent {
			t.Errorf("spent %t: forgotten are %v", spent, gone)
		}
		for _, node := range gone {
			delete(h.enrolled, node)
		}
		if b.askAll(t.Context(), []dataset.Dataset{d}, time.Second) != spent {
			t.Errorf("spent %t: the node with the copy is asked", spent)
		}
		if got := b.Until(d) - now; got > boundTTL != spent {
			t.Errorf("spent %t: held for %v", spent, got)
		}
	}
}

// The agent takes over only those leases of a guard that the guard would fence at their deadline, on this boot, at
// the epoch that is recorded here.
func TestI1InheritsWhatIsHeld(t *testing.T) {
	for _, c := range []struct {
		change func(*guard.Entry)
		want   bool
	}{
		{func(*guard.Entry) {}, true},
		{func(e *guard.Entry) { e.Epoch-- }, false},
		{func(e *guard.Entry) { e.Epoch++ }, false},
		{func(e *guard.Entry) { e.Boot = "another" }, false},
		{func(e *guard.Entry) { e.State = guard.StateFenced }, false},
	} {
		b := New(&host.Host{Cache: host.NewCache(), Clock: clock.System{}, Boot: "this"}, nil, nil, nil, nil).Deadlines
		d := dataset.Dataset{ID: uuid.New(), Epoch: 3, Profile: dataset.Profile{Failover: dataset.Failover{Auto: true}}}
		b.Cache.Apply(d, 1)
		e := guard.Entry{Epoch: 3, Boot: "this", State: guard.StateArmed, Deadline: boundTTL}
		e.Dataset = d.ID
		c.change(&e)
		if b.Inherit(guard.Status{Datasets: []guard.Entry{e}}); (b.lease(d).deadline == boundTTL) != c.want {
			t.Errorf("held until %v by %+v", b.lease(d).deadline, e)
		}
	}
}

// While control answers, the addresses of the other nodes are read again: soon if one is missing, and otherwise from
// time to time, less often the more nodes there are.
func TestAddressesAreKept(t *testing.T) {
	for name, c := range map[string]struct {
		copies []uuid.UUID
		others int
		lost   bool
		after  time.Duration
		want   bool
	}{
		"all are known":            {[]uuid.UUID{nodeP}, 0, false, time.Minute - 1, false},
		"for a minute":             {[]uuid.UUID{nodeP}, 0, false, time.Minute, true},
		"nobody has a copy":        {nil, 0, false, time.Hour, false},
		"one is missing":           {[]uuid.UUID{nodeP}, 0, true, boundTTL / 5, true},
		"it was just asked of":     {[]uuid.UUID{nodeP}, 0, true, boundTTL/5 - 1, false},
		"for a minute of so many":  {[]uuid.UUID{nodeP}, 999, false, time.Minute, false},
		"for longer, of that many": {[]uuid.UUID{nodeP}, 999, false, 1000 * time.Second, true},
	} {
		b, d := aloneWith(t, c.copies...)
		asked := make(chan struct{}, 1)
		b.Control = counting{asked: asked}
		var wg sync.WaitGroup
		b.Jobs = host.New(t.Context(), &wg)
		for range c.others {
			b.Nodes.seen[uuid.New()] = dataset.Node{}
		}
		if c.lost {
			delete(b.Nodes.seen, nodeP)
		}
		b.leases[d.ID].deadline = b.Clock.Steady() + time.Hour
		b.Nodes.refreshed = b.Clock.Steady() - c.after
		b.Nodes.refreshIfDue(slices.Collect(maps.Keys(b.promisers([]dataset.Dataset{d}))), boundTTL/5)
		wg.Wait()
		if got := len(asked) > 0; got != c.want {
			t.Errorf("%s: control is asked: %t", name, got)
		}
	}
}

type counting struct {
	api.Service
	asked chan struct{}
}

func (c counting) NodeList(context.Context, string) ([]api.Node, error) {
	c.asked <- struct{}{}
	return nil, errAway
}

// grants is a node that grants every promise.
type grants struct{ node uuid.UUID }

func (g grants) RoundTrip(r *http.Request) (*http.Response, error) {
	var req Request
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	err := json.NewEncoder(w).Encode(Answer{Node: g.node, Granted: req.Epochs, Duration: dataset.Duration(boundTTL)})
	return w.Result(), err
}

// The answer of another node at the former address of a node is not a promise of that node.
func TestI1PromiseOfAnother(t *testing.T) {
	for _, who := range []uuid.UUID{nodeP, nodeQ} {
		b, d := aloneWith(t, nodeP)
		b.Peers = grants{who}
		was := b.Until(d)
		all := b.askAll(t.Context(), []dataset.Dataset{d}, time.Second)
		if own := who == nodeP; all != own || b.Until(d) > was != own {
			t.Errorf("asked of %v, %v has answered: all %t, held until %v, before until %v", nodeP, who, all,
				b.Until(d), was)
		}
	}
}

// aloneWith returns an agent that control does not answer, and an open dataset of which the given nodes have copies.
func aloneWith(t *testing.T, copies ...uuid.UUID) (*Deadlines, dataset.Dataset) {
	t.Helper()
	h := &host.Host{Clock: fakes.NewClock(time.Now()), Log: quiet(), Trust: host.NewTrust("")}
	b := New(h, nil, nil, nil, nil).Deadlines
	d := dataset.Dataset{ID: uuid.New(), Epoch: 3, Copies: copies}
	b.registered[d.ID], b.leases[d.ID] = d.Epoch, &boundedLease{epoch: d.Epoch, deadline: b.Clock.Steady() + boundTTL/10}
	b.silent, b.controlSession.ttl = true, boundTTL
	b.Nodes.seen = map[uuid.UUID]dataset.Node{}
	for _, node := range copies {
		b.Nodes.seen[node] = dataset.Node{ID: node, Name: "host-b", Address: "host-b:9471"}
	}
	return b, d
}
