package agenttest

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// Link is a connection to control that a test can cut. Only the requests that have a method here fail while it is cut.
// The other requests of api.Service reach control anyway.
type Link struct {
	api.Service

	Mu  sync.Mutex
	cut chan struct{} // closed while the link is cut
	// sync, if set, changes each full answer.
	sync func(*api.Sync)
	// answersToLose is how many of the next commits succeed without an answer to the agent. If refuse is set, the next
	// commit fails. lostAnswers counts both.
	answersToLose, lostAnswers int
	refuse                     bool
	syncFails                  bool          // Sync fails
	renewed                    time.Duration // when the last renewal was sent
	DelayRegister              chan struct{} // if not nil, registrations wait until it is closed
	refuseRegistrations        bool          // registrations fail
	hangSnapshots              bool          // Snapshots does not answer
	highestReported            uint64        // the highest generation of a pool that was reported and answered
	onGenerations              func()        // called before Generations answers
}

// NewLink returns a link to a control service.
func NewLink(s api.Service) *Link { return &Link{Service: s, cut: make(chan struct{})} }

// Cut cuts the link, and interrupts the requests in progress. It must not be called again before Mend.
func (l *Link) Cut() {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	close(l.cut)
}

// Mend connects a link that was cut.
func (l *Link) Mend() {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	l.cut = make(chan struct{})
}

// ChangeSync sets the function that changes each full answer of Sync.
func (l *Link) ChangeSync(change func(*api.Sync)) {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	l.sync = change
}

// LoseAnswers makes the next n commits succeed without an answer to the agent.
func (l *Link) LoseAnswers(n int) {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	l.answersToLose = n
}

// OnGenerations sets the function that is called before control answers a request for the generations of the pools.
func (l *Link) OnGenerations(f func()) {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	l.onGenerations = f
}

// HangSnapshots makes control never answer a request for a list of snapshots.
func (l *Link) HangSnapshots() {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	l.hangSnapshots = true
}

// RefuseNext makes the next commit fail without an effect.
func (l *Link) RefuseNext() {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	l.refuse = true
}

// RefuseRegistrations fails all registrations from now on.
func (l *Link) RefuseRegistrations() {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	l.refuseRegistrations = true
}

// LastRenewed returns when the last renewal was sent, by the clock since the boot.
func (l *Link) LastRenewed() time.Duration {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	return l.renewed
}

// SetSyncFails says whether Sync fails.
func (l *Link) SetSyncFails(fails bool) {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	l.syncFails = fails
}

// LostAnswers returns how many commits got no answer, because of LoseAnswers or RefuseNext.
func (l *Link) LostAnswers() int {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	return l.lostAnswers
}

// nextFailure reports whether the answer of the next commit is lost, and whether the commit has no effect.
func (l *Link) nextFailure() (lose, refuse bool) {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	lose, refuse = l.answersToLose > 0, l.refuse
	l.answersToLose, l.refuse = max(0, l.answersToLose-1), false
	return lose, refuse
}

// through calls f. If the link is cut before f returns, through ends the context of f, waits for f, and fails with
// ErrUnavailable.
func through[T any](ctx context.Context, l *Link, f func(context.Context) (T, error)) (out T, err error) {
	l.Mu.Lock()
	cut := l.cut
	l.Mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		out T
		err error
	}
	got := make(chan answer, 1)
	select {
	case <-cut:
		return out, dataset.Errorf(dataset.ErrUnavailable, "control is unreachable")
	default:
	}
	go func() {
		out, err := f(ctx)
		got <- answer{out, err}
	}()
	select {
	case a := <-got:
		return a.out, a.err
	case <-cut:
		cancel()
		<-got
		return out, dataset.Errorf(dataset.ErrUnavailable, "control went away")
	}
}

func (l *Link) Register(ctx context.Context, r api.Registration) error {
	l.Mu.Lock()
	late, out := l.DelayRegister, l.refuseRegistrations
	l.Mu.Unlock()
	if out {
		return ErrUnreachable
	}
	if late != nil {
		<-late
	}
	_, err := through(ctx, l, func(ctx context.Context) (any, error) { return nil, l.Service.Register(ctx, r) })
	return err
}

func (l *Link) Generations(ctx context.Context, node uuid.UUID, g api.Generations) (api.Generations, error) {
	l.Mu.Lock()
	hears := l.onGenerations
	l.Mu.Unlock()
	if hears != nil {
		hears()
	}
	out, err := through(ctx, l, func(ctx context.Context) (api.Generations, error) {
		return l.Service.Generations(ctx, node, g)
	})
	l.Mu.Lock()
	defer l.Mu.Unlock()
	for _, p := range g.Pools {
		if err == nil {
			l.highestReported = max(l.highestReported, p.Generation)
		}
	}
	return out, err
}

// ForgetGenerations forgets the highest reported generation.
func (l *Link) ForgetGenerations() {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	l.highestReported = 0
}

// HighestGeneration returns the highest generation that was reported and answered.
func (l *Link) HighestGeneration() uint64 {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	return l.highestReported
}

func (l *Link) Renew(ctx context.Context, node, incarnation uuid.UUID) (api.SessionState, error) {
	l.Mu.Lock()
	l.renewed = clock.Boottime()
	l.Mu.Unlock()
	return through(ctx, l, func(ctx context.Context) (api.SessionState, error) {
		return l.Service.Renew(ctx, node, incarnation)
	})
}

func (l *Link) Heartbeat(ctx context.Context, node uuid.UUID, h api.Heartbeat) error {
	_, err := through(ctx, l, func(ctx context.Context) (any, error) {
		return nil, l.Service.Heartbeat(ctx, node, h)
	})
	return err
}

func (l *Link) ReportCopy(ctx context.Context, node uuid.UUID, c api.CopyReport) error {
	_, err := through(ctx, l, func(ctx context.Context) (any, error) {
		return nil, l.Service.ReportCopy(ctx, node, c)
	})
	return err
}

func (l *Link) Record(ctx context.Context, node uuid.UUID, r api.Report) error {
	_, err := through(ctx, l, func(ctx context.Context) (any, error) {
		return nil, l.Service.Record(ctx, node, r)
	})
	return err
}

func (l *Link) Plan(ctx context.Context, node uuid.UUID, req api.Request) (api.Plan, error) {
	return through(ctx, l, func(ctx context.Context) (api.Plan, error) {
		return l.Service.Plan(ctx, node, req)
	})
}

func (l *Link) Commit(ctx context.Context, node uuid.UUID, r api.Report) (api.Committed, error) {
	lose, refuse := l.nextFailure()
	if !refuse {
		out, err := through(ctx, l, func(ctx context.Context) (api.Committed, error) {
			return l.Service.Commit(ctx, node, r)
		})
		if !lose {
			return out, err
		}
	}
	l.Mu.Lock()
	defer l.Mu.Unlock()
	l.lostAnswers++
	return api.Committed{}, dataset.Errorf(dataset.ErrUnavailable, "the answer is lost")
}

func (l *Link) Sync(ctx context.Context, node uuid.UUID, rev uint64, wait time.Duration) (api.Sync, error) {
	s, err := through(ctx, l, func(ctx context.Context) (api.Sync, error) {
		return l.Service.Sync(ctx, node, rev, wait)
	})
	l.Mu.Lock()
	defer l.Mu.Unlock()
	if l.syncFails {
		return api.Sync{}, ErrUnreachable
	}
	if err == nil && s.Full && l.sync != nil {
		l.sync(&s)
	}
	return s, err
}

func (l *Link) Volume(ctx context.Context, ref string) (api.Volume, error) {
	return through(ctx, l, func(ctx context.Context) (api.Volume, error) { return l.Service.Volume(ctx, ref) })
}

func (l *Link) Snapshots(ctx context.Context, ref string, p api.Page) (api.List[dataset.Snapshot], error) {
	l.Mu.Lock()
	mute := l.hangSnapshots
	l.Mu.Unlock()
	if mute {
		<-ctx.Done()
		return api.List[dataset.Snapshot]{}, context.Cause(ctx)
	}
	return through(ctx, l, func(ctx context.Context) (api.List[dataset.Snapshot], error) {
		return l.Service.Snapshots(ctx, ref, p)
	})
}

func (l *Link) Snapshot(ctx context.Context, ref, snapshot string) (dataset.Snapshot, error) {
	return through(ctx, l, func(ctx context.Context) (dataset.Snapshot, error) {
		return l.Service.Snapshot(ctx, ref, snapshot)
	})
}

func (l *Link) Profiles(ctx context.Context) ([]api.ListedProfile, error) {
	return through(ctx, l, l.Service.Profiles)
}

func (l *Link) Pools(ctx context.Context) ([]api.Pool, error) {
	return through(ctx, l, l.Service.Pools)
}

func (l *Link) Operation(ctx context.Context, id string, wait time.Duration) (dataset.Operation, error) {
	return through(ctx, l, func(ctx context.Context) (dataset.Operation, error) {
		return l.Service.Operation(ctx, id, wait)
	})
}
