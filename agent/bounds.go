package agent

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/promise"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
)

// bounds is how the datasets are held whose lease is bounded in time, and what this node
// knows of its session with control. mu guards all of it; nothing is asked under mu.
type bounds struct {
	mu      sync.Mutex
	tenure  tenure
	silent  bool // control did not answer the last renewal
	holds   map[uuid.UUID]*hold
	armed   map[uuid.UUID]uint64 // what the guard has, as far as that is known, at which epoch
	unread  string               // why what this node is the home of was not read, as it was said last
	answers atomic.Uint64        // of the guard, to registrations
	kept    map[uuid.UUID]string // why the guard keeps what is not mounted, as it was logged last
	moved   chan struct{}        // closed when any of the tenure changes
	wake    chan struct{}

	// enrolling is held while who was given something changes on disk, so that this comes in
	// the order in which it was decided; taken before mu.
	enrolling sync.Mutex

	// ctx is of renewing and feeding, which go on while an agent that stops waits for its
	// work: what is fenced by then nobody could mend.
	ctx context.Context
	end context.CancelFunc
	wg  sync.WaitGroup
}

func newBounds(ctx context.Context) *bounds {
	ctx, end := context.WithCancel(ctx)
	return &bounds{
		ctx: ctx, end: end,
		holds: map[uuid.UUID]*hold{}, armed: map[uuid.UUID]uint64{}, kept: map[uuid.UUID]string{},
		moved: make(chan struct{}), wake: make(chan struct{}, 1),
	}
}

func (b *bounds) soon() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// change changes what is known of the session, and wakes who waits for that.
func (b *bounds) change(f func()) {
	b.mu.Lock()
	f()
	close(b.moved)
	b.moved = make(chan struct{})
	b.mu.Unlock()
	b.soon()
}

// isNews takes in why what this node is the home of was not read, "" when it was, and reports
// whether that was another before: it is tried again several times in a session.
func (b *bounds) isNews(why string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.unread
	b.unread = why
	return was != why
}

// heard takes in that control answered a renewal.
func (b *bounds) heard(session uuid.UUID, sent, ttl, now time.Duration) {
	b.change(func() { b.silent = false; b.tenure.renewed(session, sent, ttl, now) })
}

// unheard takes in that it did not.
func (b *bounds) unheard() { b.change(func() { b.silent = true }) }

// alone reports whether control's word is not enough, or not enough yet: it did not answer
// the last renewal, or none of this process, or not what this node is the home of. The lock
// is held.
func (b *bounds) alone() bool {
	return b.silent || b.tenure.unread() || b.tenure.session == uuid.Nil
}

// hold returns how a dataset is held; the lock is held.
func (b *bounds) hold(d dataset.Dataset) *hold {
	h := b.holds[d.ID]
	if h == nil {
		h = &hold{}
		b.holds[d.ID] = h
	}
	h.at(d.Epoch)
	return h
}

func (b *bounds) arm(id uuid.UUID, epoch uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.armed[id] = epoch
}

// fenceTakes takes in how long a fence of a dataset takes at most, as the guard says at one of
// its answers to a registration, or after it. A status that was on its way while the dataset was
// registered may be of before, and says nothing of it. By as much as a fence is slower than was
// known, what was justified ends earlier.
func (b *bounds) fenceTakes(id uuid.UUID, bound time.Duration, answer uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if h := b.holds[id]; h != nil && h.answer <= answer {
		h.answer = answer
		was, _ := h.overrun(&b.tenure)
		h.fence = bound
		is, _ := h.overrun(&b.tenure)
		h.deadline -= max(is-was, 0)
	}
}

// span is the time of a session; 0: not known yet.
func (b *bounds) span() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tenure.ttl
}

func (b *bounds) disarm(id uuid.UUID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.armed, id)
	delete(b.kept, id)
}

// armedAt returns at which epoch the guard has a dataset, as far as that is known.
func (b *bounds) armedAt(id uuid.UUID) (epoch uint64, armed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	epoch, armed = b.armed[id]
	return epoch, armed
}

// until returns until when a dataset may be open here, as far as that is known now.
func (a *Agent) until(d dataset.Dataset) time.Duration {
	doubted, now, b := a.mistrust() != nil, a.Clock.Steady(), a.bounds
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tenure.doubted = doubted
	return b.hold(d).extend(&b.tenure, d.Followers(), b.alone(), now)
}

// fenceMay is hold.fenceMay.
func (b *bounds) fenceMay(d dataset.Dataset, deadline time.Duration) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.hold(d).fenceMay(&b.tenure, deadline)
}

// boundedHere are the datasets whose home is here and whose lease is bounded in time.
func (a *Agent) boundedHere() (list []dataset.Dataset) {
	if a.Guard == nil {
		return nil
	}
	for _, id := range a.cache.ids() {
		if d, home := a.cache.dataset(id); home && bounded(d) {
			list = append(list, d)
		}
	}
	return list
}

// idleBounds is how often it is looked whether there is anything to hold.
const idleBounds = time.Minute

// keepBounds puts off the deadlines of what is held here until the agent stops.
func (a *Agent) keepBounds() {
	for {
		wait := a.keepBoundsOnce(a.bounds.ctx)
		select {
		case <-a.bounds.ctx.Done():
			return
		case <-a.bounds.wake:
		case <-a.Clock.After(wait):
		}
	}
}

// keepBoundsOnce reads what this node is the home of, where that is not known for the
// session that it has; asks the other nodes while control is silent; and feeds the guard.
// It returns after how long it is to be called again.
func (a *Agent) keepBoundsOnce(ctx context.Context) (wait time.Duration) {
	list := a.boundedHere()
	a.forgetHolds()
	if len(list) == 0 {
		return idleBounds
	}
	a.bounds.mu.Lock()
	row, unread, ttl := a.bounds.tenure.row, a.bounds.tenure.unread(), a.bounds.tenure.ttl
	silent, alone := a.bounds.silent, a.bounds.alone()
	a.bounds.mu.Unlock()
	if ttl == 0 {
		return idleBounds
	}
	if unread && !silent {
		a.jobs.start("leases", func(ctx context.Context, _ *job) error { a.readHolds(ctx, row); return nil })
	}
	wait = ttl / 5
	if !alone {
		a.keepAddresses(list, ttl)
	} else if !a.askAll(ctx, list, ttl/10) {
		wait = ttl / 10
	}
	a.feedGuard(ctx, list)
	return wait
}

// readHolds reads what this node is the home of, for what it holds during a row of renewals.
func (a *Agent) readHolds(ctx context.Context, row uint64) {
	s, err := a.join(ctx)
	if err == nil {
		err = errors.Join(a.mistrust(), a.lookNodes(ctx))
	}
	if err == nil && s.Halted != "" { // another home may have seen what this node was too late for
		err = dataset.Errorf(dataset.ErrConflict, "%s", s.Halted)
	}
	if err != nil {
		if ctx.Err() == nil && a.bounds.isNews(err.Error()) {
			a.Log.WithError(err).Warn("what this node is the home of was not read: volumes with failover auto are not confirmed to be its own; it is tried again")
		}
		return
	}
	a.bounds.isNews("")
	a.bounds.change(func() { a.bounds.tenure.readDuring(row) })
}

// promisers are the nodes that could take over what is in use here, with what each would
// have to promise.
func (a *Agent) promisers(list []dataset.Dataset) map[uuid.UUID][]promise.Epoch {
	epochs := map[uuid.UUID][]promise.Epoch{}
	now := a.Clock.Steady()
	a.bounds.mu.Lock()
	defer a.bounds.mu.Unlock()
	for _, d := range list {
		h := a.bounds.hold(d)
		if _, armed := a.bounds.armed[d.ID]; !armed || h.deadline <= now {
			continue
		}
		for _, node := range h.promisers(d.Followers()) {
			epochs[node] = append(epochs[node], promise.Epoch{Dataset: d.ID, Epoch: d.Epoch})
		}
	}
	return epochs
}

// askAll asks all nodes that could take over what is in use here to promise not to, each
// once for all datasets, and reports whether all did.
func (a *Agent) askAll(ctx context.Context, list []dataset.Dataset, most time.Duration) (all bool) {
	epochs := a.promisers(list)
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	var wg sync.WaitGroup
	got := make(chan int, len(epochs))
	for node, wanted := range epochs {
		wg.Go(func() { got <- len(wanted) - a.askOne(ctx, node, wanted) })
	}
	wg.Wait()
	all = true
	for range epochs {
		all = <-got == 0 && all
	}
	return all
}

// askOne asks one node, and returns how much it promised.
func (a *Agent) askOne(ctx context.Context, node uuid.UUID, wanted []promise.Epoch) int {
	address := a.nodes.address(node)
	if address == "" || a.PeerHTTP == nil {
		if address == "" && a.nodes.misses(node) {
			a.Log.WithField("node", a.nodes.name(node)).Error("control is silent, and it is not known here where another node answers, which could take over what is open here: it is fenced unless control is back in time")
		}
		return 0
	}
	sent := a.Clock.Steady()
	answer, err := promise.Ask(ctx, a.PeerHTTP, address, node, promise.Request{Incarnation: a.incarnation, Epochs: wanted})
	log := a.Log.WithField("node", a.nodes.name(node))
	if err != nil {
		log.WithError(err).Warn("control is silent, and another node does not promise to open nothing that is open here")
		return 0
	}
	for _, r := range answer.Refused {
		log.WithField("dataset", r.Dataset).Warnf("control is silent, and another node does not promise to leave this alone: %s", r.Why)
	}
	a.bounds.mu.Lock()
	defer a.bounds.mu.Unlock()
	for _, e := range answer.Granted {
		if h := a.bounds.holds[e.Dataset]; h != nil {
			h.vow(node, e.Epoch, answer.Bound(sent))
		}
	}
	return len(answer.Granted)
}

// feedGuard feeds all deadlines in one request. What the guard has fenced meanwhile, or
// does not know, is looked at by itself.
func (a *Agent) feedGuard(ctx context.Context, list []dataset.Dataset) {
	now := a.Clock.Steady()
	var feeds []guard.Feed
	for _, d := range list {
		until := a.until(d)
		if _, armed := a.bounds.armedAt(d.ID); armed && until > now {
			feeds = append(feeds, guard.Feed{Dataset: d.ID, Epoch: d.Epoch, Deadline: until, Most: a.bounds.fenceMay(d, until)})
		}
	}
	if len(feeds) == 0 {
		return
	}
	refused, err := a.Guard.Feed(ctx, feeds)
	if err != nil {
		if ctx.Err() == nil {
			a.Log.WithError(err).Error("the guard was not told how long volumes are held: it fences them when their deadlines pass")
		}
		return
	}
	for id := range refused {
		a.mendSoon(id)
	}
}

// heldWait is what a mount waits for control to confirm what this node is the home of.
const heldWait = 5 * time.Second

// held returns until when a dataset may be open here. ErrUnavailable when that is over, or
// not known yet.
func (a *Agent) held(ctx context.Context, d dataset.Dataset) (time.Duration, error) {
	late := a.Clock.After(heldWait)
	for {
		a.bounds.mu.Lock()
		silent, moved := a.bounds.silent, a.bounds.moved
		a.bounds.mu.Unlock()
		if until := a.until(d); until > a.Clock.Steady() {
			return until, nil
		}
		if a.mistrust() != nil {
			return 0, a.unconfirmed(d, "control's store is not to be believed")
		}
		if silent {
			return 0, a.unconfirmed(d, "control does not answer")
		}
		a.bounds.soon()
		select {
		case <-moved:
		case <-late:
			return 0, a.unconfirmed(d, "control has not confirmed it yet")
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (a *Agent) unconfirmed(d dataset.Dataset, why string) error {
	return dataset.Errorf(dataset.ErrUnavailable, "cannot open volume %s: with failover auto another node may have taken it over, and %s (it is mounted once control says that it is still node %s's)", d.Volume, why, a.NodeName)
}
