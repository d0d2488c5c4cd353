package move

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/fakes"
)

// A refresh that fails is tried again after 10 seconds, then after twice that time, up to five minutes, and never less
// often than the profile says.
func TestBackoff(t *testing.T) {
	for _, c := range []struct {
		failures    int
		every, want time.Duration
	}{
		{1, time.Hour, 10 * time.Second},
		{2, time.Hour, 20 * time.Second},
		{5, time.Hour, 160 * time.Second},
		{6, time.Hour, 5 * time.Minute},
		{1000, time.Hour, 5 * time.Minute},
		{1, time.Minute, 10 * time.Second},
		{9, time.Minute, time.Minute},
		{9, 0, time.Second},
	} {
		if got := backoff(c.failures, c.every, time.Second); got != c.want {
			t.Errorf("after %d failures of a replica refreshed every %s: %s, want %s", c.failures, c.every, got, c.want)
		}
	}
}

// refreshes are the replicas of a node that reaches no other node: each refresh waits until the test lets it fail.
type refreshes struct {
	*Replicas
	*testing.T
	clock *fakes.Clock
	home  uuid.UUID
	fail  chan error    // each value lets one refresh fail with that error
	reach chan struct{} // each value lets one refresh reach the home
}

var errNoWay = errors.New("no way to its home")

func newRefreshes(t *testing.T) *refreshes {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	r := &refreshes{T: t, clock: fakes.NewClock(time.Unix(0, 0)), home: uuid.New(),
		fail: make(chan error), reach: make(chan struct{})}
	t.Cleanup(func() { cancel(); wg.Wait() })
	log := logrus.New()
	log.SetOutput(io.Discard)
	r.Replicas = newReplicas(&Moves{Operations: &operation.Operations{Mounts: &mounting.Mounts{Host: &host.Host{
		NodeID: uuid.New(), Cache: host.NewCache(), Jobs: host.New(ctx, &wg), News: host.NewNews(),
		Clock: r.clock, Log: log, Timing: host.Timing{}.OrDefault(), Ctx: ctx,
	}}}})
	r.refresher = r
	return r
}

// Refresh implements refresher. It does nothing for a volume in the trash.
func (r *refreshes) Refresh(ctx context.Context, _ *host.Job, id uuid.UUID) error {
	if k, _ := r.Cache.Copy(id); k.Record.State != dataset.StateReady {
		return nil
	}
	select {
	case err := <-r.fail:
		return err
	case <-r.reach:
		r.noteAnswer(id)
	case <-ctx.Done():
	}
	<-ctx.Done() // a long transfer
	return ctx.Err()
}

// add adds a replica whose volume has a state.
func (r *refreshes) add(id uuid.UUID, state dataset.State) {
	d := dataset.Dataset{ID: id, Volume: "db", State: state, Home: r.home}
	d.Profile.Replicas.Every = dataset.Duration(time.Hour)
	r.Cache.SetCopy(id, &api.AssignedCopy{
		Copy: dataset.Copy{Dataset: id, Node: r.NodeID, Kind: dataset.CopyReplica}, Record: &d,
	})
}

// running returns how many of these replicas are being refreshed.
func (r *refreshes) running(ids []uuid.UUID) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		if of := r.byDataset[id]; of != nil && of.running {
			n++
		}
	}
	return n
}

// awaitNone waits until none of these replicas is being refreshed. Each refresh wakes Run at its end.
func (r *refreshes) awaitNone(ids ...uuid.UUID) {
	r.Helper()
	for r.running(ids) > 0 {
		select {
		case <-r.wake:
		case <-r.Context().Done():
			r.Fatal("the refreshes have not ended")
		}
	}
}

// fails lets the next refresh of a replica fail, and waits for its end.
func (r *refreshes) fails(id uuid.UUID, why error) {
	r.Helper()
	r.startDue()
	r.fail <- why
	r.awaitNone(id)
}

// Replicas that fail take one of the four slots, so that the others are refreshed.
func TestFailingReplicasLeaveSlots(t *testing.T) {
	r := newRefreshes(t)
	ids := make([]uuid.UUID, 8)
	for i := range ids {
		ids[i] = uuid.New()
	}
	bad, good := ids[:4], ids[4:]
	for _, id := range bad {
		r.add(id, dataset.StateReady)
	}
	r.startDue()
	if n := r.running(bad); n != maxRefreshes {
		t.Fatalf("%d new replicas are refreshed, want %d", n, maxRefreshes)
	}
	for _, delay := range []time.Duration{10 * time.Second, 20 * time.Second} {
		if n := r.running(bad); n != maxRefreshes { // after one failure, the home's agent may just have restarted
			t.Errorf("%d replicas are refreshed, want %d", n, maxRefreshes)
		}
		for range bad {
			r.fail <- errNoWay
		}
		r.awaitNone(bad...)
		if wait := r.startDue(); wait != delay || r.running(bad) != 0 {
			t.Errorf("the next refresh is due in %s, and %d run; want %s and 0", wait, r.running(bad), delay)
		}
		r.clock.Advance(delay)
		r.startDue()
	}
	if n := r.running(bad); n != maxFailingRefreshes {
		t.Errorf("%d failing replicas are refreshed, want %d", n, maxFailingRefreshes)
	}
	for _, id := range good {
		r.add(id, dataset.StateReady)
	}
	r.startDue()
	if n := r.running(good); n != maxRefreshes-maxFailingRefreshes {
		t.Errorf("%d other replicas are refreshed, want %d", n, maxRefreshes-maxFailingRefreshes)
	}
}

// A refresh whose home has answered does not count as failing. It can transfer data for hours, and meanwhile the other
// failing replicas are refreshed.
func TestAnsweredRefreshIsNotFailing(t *testing.T) {
	r := newRefreshes(t)
	ids := []uuid.UUID{uuid.New(), uuid.New()}
	for _, id := range ids {
		r.add(id, dataset.StateReady)
	}
	for range reportedFailures {
		r.startDue()
		for range ids {
			r.fail <- errNoWay
		}
		r.awaitNone(ids...)
		r.clock.Advance(5 * time.Minute)
	}
	select { // of the refreshes that ended
	case <-r.wake:
	default:
	}
	if r.startDue(); r.running(ids) != 1 {
		t.Fatalf("%d failing replicas are refreshed, want 1", r.running(ids))
	}
	r.reach <- struct{}{}
	select {
	case <-r.wake:
	case <-time.After(time.Minute):
		t.Fatal("the answer of the home does not wake Run")
	}
	if r.startDue(); r.running(ids) != 2 {
		t.Errorf("after the answer of the home, %d replicas are refreshed, want 2", r.running(ids))
	}
}

// After a start, the state of a replica may not be known yet. Then a failure is not reported, because such a report has
// no snapshot.
func TestFailureWithUnknownStateIsNotReported(t *testing.T) {
	r := newRefreshes(t)
	id := uuid.New()
	r.add(id, dataset.StateReady)
	k, _ := r.Cache.Copy(id)
	k.Snapshot = uuid.New()
	r.Cache.SetCopy(id, &k)
	for range reportedFailures {
		r.fails(id, errNoWay)
		r.clock.Advance(5 * time.Minute)
	}
	if got, reported := r.Status(id); reported {
		t.Errorf("the report is %+v, want none", got)
	}
}

// Control is told why a replica cannot be refreshed after the second failure in a row, and when that ends. Once one
// replica is refreshed again, the others from the same home are tried at once.
func TestFailureIsReported(t *testing.T) {
	r := newRefreshes(t)
	id, other := uuid.New(), uuid.New()
	fails := func(id uuid.UUID) {
		t.Helper()
		r.fails(id, errNoWay)
	}
	wants := func(when, problem string, reported bool) {
		t.Helper()
		got, told := r.Status(id)
		if got.Problem != problem || told != reported || slices.Contains(r.News.Take(), id) != reported {
			t.Errorf("%s: the problem %q is reported: %t, want %q and %t", when, got.Problem, told, problem, reported)
		}
		if told && (got.Dataset != id || got.Node != r.NodeID || got.Snapshot != uuid.Nil) {
			t.Errorf("%s: the report is %+v, want one of dataset %s without a snapshot", when, got, id)
		}
	}
	r.add(id, dataset.StateReady)
	fails(id)
	wants("after a failure", "", false)
	r.clock.Advance(10 * time.Second)
	fails(id)
	wants("after two failures", "no way to its home", true)
	r.add(other, dataset.StateReady)
	fails(other)
	r.clock.Advance(19 * time.Second)
	fails(other)
	r.clock.Advance(time.Second)

	r.add(id, dataset.StateTrashed) // nothing is done for it, so the refresh succeeds
	r.startDue()
	r.awaitNone(id)
	wants("after a success", "", true)
	r.startDue()
	if r.running([]uuid.UUID{other}) != 0 {
		t.Error("the other replica is tried at once, and its home has not answered")
	}

	r.mu.Lock() // as at the end of a refresh whose home has answered
	r.byDataset[id].failures, r.byDataset[id].reached = 1, true
	r.recordResult(id, time.Hour, nil)
	r.mu.Unlock()
	r.startDue()
	if r.running([]uuid.UUID{other}) != 1 {
		t.Error("the other replica from that home is not tried at once")
	}
}
