package lease_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/dataset"
)

// asks asks a host for a promise for some epochs, in the name of another host.
func asks(h *agenttest.Host, other *agenttest.Host, epochs ...lease.Epoch) lease.Answer {
	h.Cluster.Helper()
	out, err := lease.Ask(h.Cluster.Context(), h.Config.PeerHTTP, other.Config.Address, other.Node(), lease.Request{Incarnation: h.Incarnation, Epochs: epochs})
	if err != nil {
		h.Cluster.Fatal(err)
	}
	return out
}

// A node with a copy promises to the home that it knows, for the duration of a session, and to no other node. A node
// that is about to open the next epoch promises nothing.
func TestPromisesGoOnlyToKnownHome(t *testing.T) {
	t.Parallel()
	const session = time.Second
	f := agenttest.NewBoundedCluster(t, session)
	d := f.A.NewVolume("db@safe", nil)
	agenttest.Await(t, func() bool { _, kept := f.B.Replicas.Copy(d.ID); return kept })
	agenttest.Await(t, func() bool { _, ttl := f.B.Leases.Deadlines.Session(); return ttl > 0 })
	now := lease.Epoch{Dataset: d.ID, Epoch: d.Epoch}
	over, none := lease.Epoch{Dataset: d.ID, Epoch: d.Epoch - 1}, lease.Epoch{Dataset: uuid.New(), Epoch: 1}

	got := asks(f.A, f.B, now, over, none)
	if len(got.Granted) != 1 || got.Granted[0] != now || time.Duration(got.Duration) != session {
		t.Errorf("%+v", got)
	}
	for i, want := range []string{"it is on node host-a, at epoch 1", "has no copy of it"} {
		if len(got.Refused) != 2 || !strings.Contains(got.Refused[i].Why, want) {
			t.Errorf("%+v, not %q", got.Refused, want)
		}
	}
	if got := asks(f.B, f.A, now); len(got.Refused) != 1 || !strings.Contains(got.Refused[0].Why, "node host-a has it") {
		t.Errorf("the home's own promise: %+v", got)
	}
	if _, err := lease.Ask(t.Context(), f.A.Config.PeerHTTP, f.B.Config.Address, f.B.Node(), lease.Request{Epochs: make([]lease.Epoch, lease.MaxEpochs+1)}); dataset.KindOf(err) != dataset.ErrInvalid {
		t.Errorf("too many at once: %v", err)
	}

	if holder, wait := f.B.Leases.Keeper.BlockPromises(now, session); holder != f.A.Node() || wait <= 0 {
		t.Errorf("sworn off while it is promised: %v, %v", holder, wait)
	}
	// Several attempts: until AllowPromises below, the node's background work may withdraw the promise again.
	agenttest.Await(t, func() bool {
		if _, wait := f.B.Leases.Keeper.BlockPromises(now, session); wait > 0 {
			return false
		}
		got := asks(f.A, f.B, now)
		return len(got.Refused) == 1 && strings.Contains(got.Refused[0].Why, "epoch 2 is about to be opened here")
	})
	f.B.Leases.AllowPromises(t.Context()) // control has recorded no promotion
	if got := asks(f.A, f.B, now); len(got.Granted) != 1 {
		t.Errorf("%+v", got)
	}
	f.Network.SetCut(true)
	if _, err := lease.Ask(t.Context(), f.A.Config.PeerHTTP, f.B.Config.Address, f.B.Node(), lease.Request{}); dataset.KindOf(err) != dataset.ErrOffline {
		t.Error(err)
	}
}
