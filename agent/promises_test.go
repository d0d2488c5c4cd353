package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/promise"
	"github.com/droverhq/drover/dataset"
)

// newBounded starts a flock whose agents count as alive for so long.
func newBounded(t *testing.T, session time.Duration) *flock {
	t.Helper()
	f := &flock{T: t, session: session}
	f.serve()
	f.a, f.b = f.host("host-a", "loop"), f.host("host-b", "loop")
	f.a.cfg.Guard, f.b.cfg.Guard = newWarden(t, session/10), newWarden(t, session/10)
	t.Cleanup(f.close)
	f.a.up()
	f.b.up()
	return f
}

// asks asks a host for its promise about epochs.
func (h *flockHost) asks(other *flockHost, epochs ...promise.Epoch) promise.Answer {
	h.f.Helper()
	out, err := promise.Ask(h.f.Context(), h.cfg.PeerHTTP, other.config.Address, other.Node(), promise.Request{Incarnation: h.Incarnation, Epochs: epochs})
	if err != nil {
		h.f.Fatal(err)
	}
	return out
}

// A node with a copy promises to the home that it knows, for the time of a session, and to
// nobody else; one that is about to open the next epoch promises nothing.
func TestPromises(t *testing.T) {
	t.Parallel()
	const session = time.Second
	f := newBounded(t, session)
	d := f.a.volume("db@safe", nil)
	await(t, func() bool { _, kept := f.b.replicas.Copy(d.ID); return kept })
	await(t, func() bool { _, ttl := f.b.Standing(); return ttl > 0 })
	now := promise.Epoch{Dataset: d.ID, Epoch: d.Epoch}
	over, none := promise.Epoch{Dataset: d.ID, Epoch: d.Epoch - 1}, promise.Epoch{Dataset: uuid.New(), Epoch: 1}

	got := f.a.asks(f.b, now, over, none)
	if len(got.Granted) != 1 || got.Granted[0] != now || time.Duration(got.For) != session {
		t.Errorf("%+v", got)
	}
	for i, want := range []string{"it is on node host-a, at epoch 1", "has nothing of it"} {
		if len(got.Refused) != 2 || !strings.Contains(got.Refused[i].Why, want) {
			t.Errorf("%+v, not %q", got.Refused, want)
		}
	}
	if got := f.b.asks(f.a, now); len(got.Refused) != 1 || !strings.Contains(got.Refused[0].Why, "node host-a has it") {
		t.Errorf("the home's own promise: %+v", got)
	}
	if _, err := promise.Ask(t.Context(), f.a.cfg.PeerHTTP, f.b.config.Address, f.b.Node(), promise.Request{Epochs: make([]promise.Epoch, promise.MaxEpochs+1)}); dataset.KindOf(err) != dataset.ErrInvalid {
		t.Errorf("too many at once: %v", err)
	}

	if holder, wait := f.b.keeper.Swear(now, session); holder != f.a.Node() || wait <= 0 {
		t.Errorf("sworn off while it is promised: %v, %v", holder, wait)
	}
	await(t, func() bool { // more than once: its own rounds may take it back meanwhile, as below
		if _, wait := f.b.keeper.Swear(now, session); wait > 0 {
			return false
		}
		got := f.a.asks(f.b, now)
		return len(got.Refused) == 1 && strings.Contains(got.Refused[0].Why, "epoch 2 is to be opened here")
	})
	f.b.promises.Unswear(t.Context()) // control knows of no promotion
	if got := f.a.asks(f.b, now); len(got.Granted) != 1 {
		t.Errorf("%+v", got)
	}
	f.wires.setCut(true)
	if _, err := promise.Ask(t.Context(), f.a.cfg.PeerHTTP, f.b.config.Address, f.b.Node(), promise.Request{}); dataset.KindOf(err) != dataset.ErrOffline {
		t.Error(err)
	}
}
