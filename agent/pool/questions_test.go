package pool_test

import (
	"context"
	"errors"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// TestReadingsOfAStatusAreShared: all who wait for the status of a pool while it works on an earlier question get one
// reading, which begins after that question. A caller whose context ends does not wait, and does not end the reading.
func TestReadingsOfAStatusAreShared(t *testing.T) {
	r, h, _, there := hungRig(t)
	began, gate, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- r.Pools.Ask(t.Context(), there.Pool, func(backends.Pool) { close(began); <-gate })
	}()
	<-began
	before := h.Statuses()
	first := r.Pools.JoinReading(there.Pool)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if st, err := r.Pools.ReadStatus(ctx, there.Pool); !errors.Is(err, context.Canceled) || st.Online {
		t.Errorf("a caller that has gone: %+v, %v", st, err)
	}
	if r.Pools.JoinReading(there.Pool) != first {
		t.Error("another caller that waits has another reading")
	}
	close(gate)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	<-first
	if n := h.Statuses() - before; n != 1 {
		t.Errorf("the status was read %d times, want once", n)
	}
	if st, err := r.Pools.ReadStatus(t.Context(), there.Pool); err != nil || !st.Online || st.Size == 0 {
		t.Errorf("a later caller: %+v, %v", st, err)
	}
	if n := h.Statuses() - before; n != 2 {
		t.Errorf("after a later call, the status was read %d times, want twice", n)
	}
}

// TestHangingPoolIsReportedAtOnce: once a pool counts as hanging, all callers get that answer: those that wait for the
// question that hangs, those that wait for their turn after it, and later ones. The clock stands still meanwhile, so
// none of them has waited for AskPatience.
func TestHangingPoolIsReportedAtOnce(t *testing.T) {
	r, _, _, there := hungRig(t)
	const callers = 4
	began, gate, ended := make(chan struct{}), make(chan struct{}), make(chan error, callers)
	ask := func(f func(backends.Pool)) { ended <- r.Pools.Ask(t.Context(), there.Pool, f) }
	go ask(func(backends.Pool) { close(began); <-gate })
	<-began
	go ask(func(backends.Pool) { t.Error("the pool is asked while it hangs") })
	reading := r.Pools.JoinReading(there.Pool) // it waits for its turn
	readStatus := func() {
		_, err := r.Pools.ReadStatus(t.Context(), there.Pool)
		ended <- err
	}
	go readStatus()
	r.Pools.MarkHung(there.Pool)
	go readStatus()
	agenttest.Await(t, func() bool { return len(ended) == callers })
	for range callers {
		if err := <-ended; !errors.Is(err, dataset.ErrOffline) {
			t.Errorf("%v, want %v", err, dataset.ErrOffline)
		}
	}
	<-reading
	close(gate)
	agenttest.Await(t, func() bool { return r.PoolStatus("other").Online })
}
