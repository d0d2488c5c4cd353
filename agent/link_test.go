package agent

import (
	"context"
	"flag"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/scratch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(alone{m}) }

// alone runs the tests where nobody else sees what they mount: the agent takes a copy in
// a namespace that the tests of another package make meanwhile for a container's use.
type alone struct{ *testing.M }

func (a alone) Run() int {
	// Most of these tests wait for leases, promises and sessions, and four seldom have anything to do at once.
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	return scratch.Main(a.M)
}

// link is the way to control, which a test can cut.
type link struct {
	api.Service

	mu  sync.Mutex
	cut chan struct{} // closed while the link is
	// sync, when set, changes what a full answer says.
	sync func(*api.Sync)
	// lose is how many commits get no answer, though they happen; refuse says that
	// the next one does not happen either. unanswered counts them.
	lose, unanswered int
	refuse           bool
	deaf             bool          // what it knows of a node it does not say
	renewed          time.Duration // when the last renewal came by
	late             chan struct{} // closed when it lets an agent register
	out              bool          // it lets no agent register
	old              bool          // it leads to a control of an older version
	mute             bool          // of snapshots it says nothing, however long one waits
	said             uint64        // the highest generation of a pool that was told, and answered
	hears            func()        // before it answers of which generation pools were
}

func newLink(s api.Service) *link { return &link{Service: s, cut: make(chan struct{})} }

// away cuts the link: what is under way breaks off.
func (l *link) away() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.cut)
}

func (l *link) back() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = make(chan struct{})
}

func (l *link) answers(change func(*api.Sync)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sync = change
}

func (l *link) loses(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lose = n
}

func (l *link) setOld(old bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.old = old
}

func (l *link) setHears(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hears = f
}

func (l *link) silent() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mute = true
}

func (l *link) refuses() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuse = true
}

// keepOut has control register no agent from now on.
func (l *link) keepOut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out = true
}

func (l *link) lastRenewed() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.renewed
}

func (l *link) setDeaf(deaf bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deaf = deaf
}

func (l *link) lost() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unanswered
}

// unlucky reports whether a commit gets no answer, and whether it happens.
func (l *link) unlucky() (lose, refuse bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lose, refuse = l.lose > 0, l.refuse
	l.lose, l.refuse = max(0, l.lose-1), false
	return lose, refuse
}

// through calls f unless the link is cut, or until it is.
func through[T any](ctx context.Context, l *link, f func(context.Context) (T, error)) (out T, err error) {
	l.mu.Lock()
	cut := l.cut
	l.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		out T
		err error
	}
	got := make(chan answer, 1)
	select {
	case <-cut:
		return out, dataset.Errorf(dataset.ErrUnavailable, "control is away")
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

func (l *link) Register(ctx context.Context, r api.Registration) error {
	l.mu.Lock()
	late, out := l.late, l.out
	l.mu.Unlock()
	if out {
		return errAway
	}
	if late != nil {
		<-late
	}
	_, err := through(ctx, l, func(ctx context.Context) (any, error) { return nil, l.Service.Register(ctx, r) })
	return err
}

func (l *link) Generations(ctx context.Context, node uuid.UUID, g api.Generations) (api.Generations, error) {
	l.mu.Lock()
	old, hears := l.old, l.hears
	l.mu.Unlock()
	if hears != nil {
		hears()
	}
	if old {
		return api.Generations{}, dataset.Errorf(dataset.ErrInvalid, "no such endpoint: POST /v1/nodes/%s/generations", node)
	}
	out, err := through(ctx, l, func(ctx context.Context) (api.Generations, error) { return l.Service.Generations(ctx, node, g) })
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range g.Pools {
		if err == nil {
			l.said = max(l.said, p.Generation)
		}
	}
	return out, err
}

func (l *link) forgetSaid() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = 0
}

func (l *link) highestSaid() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.said
}

func (l *link) Renew(ctx context.Context, node, incarnation uuid.UUID) (api.Standing, error) {
	l.mu.Lock()
	l.renewed = clock.Boottime()
	l.mu.Unlock()
	return through(ctx, l, func(ctx context.Context) (api.Standing, error) { return l.Service.Renew(ctx, node, incarnation) })
}

func (l *link) Heartbeat(ctx context.Context, node uuid.UUID, h api.Heartbeat) error {
	_, err := through(ctx, l, func(ctx context.Context) (any, error) { return nil, l.Service.Heartbeat(ctx, node, h) })
	return err
}

func (l *link) Copied(ctx context.Context, node uuid.UUID, c api.Copied) error {
	_, err := through(ctx, l, func(ctx context.Context) (any, error) { return nil, l.Service.Copied(ctx, node, c) })
	return err
}

func (l *link) Record(ctx context.Context, node uuid.UUID, r api.Report) error {
	_, err := through(ctx, l, func(ctx context.Context) (any, error) { return nil, l.Service.Record(ctx, node, r) })
	return err
}

func (l *link) Plan(ctx context.Context, node uuid.UUID, req api.Request) (api.Plan, error) {
	return through(ctx, l, func(ctx context.Context) (api.Plan, error) { return l.Service.Plan(ctx, node, req) })
}

func (l *link) Commit(ctx context.Context, node uuid.UUID, r api.Report) (api.Committed, error) {
	lose, refuse := l.unlucky()
	if !refuse {
		out, err := through(ctx, l, func(ctx context.Context) (api.Committed, error) { return l.Service.Commit(ctx, node, r) })
		if !lose {
			return out, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unanswered++
	return api.Committed{}, dataset.Errorf(dataset.ErrUnavailable, "the answer is lost")
}

func (l *link) Sync(ctx context.Context, node uuid.UUID, rev uint64, wait time.Duration) (api.Sync, error) {
	s, err := through(ctx, l, func(ctx context.Context) (api.Sync, error) { return l.Service.Sync(ctx, node, rev, wait) })
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.deaf {
		return api.Sync{}, errAway
	}
	if err == nil && s.Full && l.sync != nil {
		l.sync(&s)
	}
	return s, err
}

func (l *link) Volume(ctx context.Context, ref string) (api.Volume, error) {
	return through(ctx, l, func(ctx context.Context) (api.Volume, error) { return l.Service.Volume(ctx, ref) })
}

func (l *link) Snapshots(ctx context.Context, ref string, p api.Page) (api.List[dataset.Snapshot], error) {
	l.mu.Lock()
	mute := l.mute
	l.mu.Unlock()
	if mute {
		<-ctx.Done()
		return api.List[dataset.Snapshot]{}, context.Cause(ctx)
	}
	return through(ctx, l, func(ctx context.Context) (api.List[dataset.Snapshot], error) { return l.Service.Snapshots(ctx, ref, p) })
}

func (l *link) Snapshot(ctx context.Context, ref, snapshot string) (dataset.Snapshot, error) {
	return through(ctx, l, func(ctx context.Context) (dataset.Snapshot, error) { return l.Service.Snapshot(ctx, ref, snapshot) })
}

func (l *link) Profiles(ctx context.Context) ([]dataset.Profile, error) {
	return through(ctx, l, l.Service.Profiles)
}

func (l *link) Pools(ctx context.Context) ([]api.Pool, error) {
	return through(ctx, l, l.Service.Pools)
}

func (l *link) Operation(ctx context.Context, id string, wait time.Duration) (dataset.Operation, error) {
	return through(ctx, l, func(ctx context.Context) (dataset.Operation, error) { return l.Service.Operation(ctx, id, wait) })
}
