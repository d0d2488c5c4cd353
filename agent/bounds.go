package agent

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/promise"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
)

// bounds contains the state of this node's time-bounded leases: how long each dataset may be
// kept open, and what this node knows of its session with control. bound.go computes the
// deadlines; this file obtains what the computation needs. mu guards the fields from tenure to
// moved; answers is atomic. No request is sent while mu is held.
type bounds struct {
	*host.Host
	boundsDeps

	mu      sync.Mutex
	tenure  tenure
	silent  bool // control did not answer the last renewal
	holds   map[uuid.UUID]*hold
	armed   map[uuid.UUID]uint64 // the epoch at which the guard has a dataset registered, as far as known
	unread  string               // the last logged reason why readHolds failed, or ""
	answers atomic.Uint64        // the number of registrations that the guard has answered
	kept    map[uuid.UUID]string // the last logged reason why the guard keeps a dataset that is not mounted
	moved   chan struct{}        // closed and replaced when tenure or silent changes
	wake    chan struct{}        // wakes keepBounds

	// enrolling is held while the set of enrolled nodes changes on disk, so that changes are
	// written in the order in which they were decided. It is locked before mu.
	enrolling sync.Mutex

	// ctx is the context of renewals and of keepBounds. They continue until an agent that stops
	// has finished its work: after that, nobody could repair a dataset that was fenced meanwhile.
	ctx context.Context
	end context.CancelFunc
	wg  sync.WaitGroup
}

// boundsDeps is what bounds needs of other components.
type boundsDeps struct {
	guard Guard             // nil: no lease is bounded in time
	http  http.RoundTripper // reaches the agents of other nodes; nil: there are none
	nodes *nodes
	// readHomes reads from control which datasets this node is the home of, and applies it.
	readHomes func(context.Context) (api.Sync, error)
	// mendSoon repairs a dataset that the guard has fenced or does not know, as a job.
	mendSoon func(uuid.UUID)
}

func newBounds(ctx context.Context, h *host.Host, deps boundsDeps) *bounds {
	ctx, end := context.WithCancel(ctx)
	return &bounds{
		Host: h, boundsDeps: deps,
		ctx: ctx, end: end,
		holds: map[uuid.UUID]*hold{}, armed: map[uuid.UUID]uint64{}, kept: map[uuid.UUID]string{},
		moved: make(chan struct{}), wake: make(chan struct{}, 1),
	}
}

// load reads the state on disk: the TTL of the last session, the addresses of the other nodes, and which nodes
// are enrolled.
func (b *bounds) load(ctx context.Context) error {
	ttl, err := b.nodes.load(ctx)
	b.tenure.ttl = ttl
	return errors.Join(err, b.loadEnrolled(ctx))
}

// soon makes keepBounds run at once.
func (b *bounds) soon() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// change changes tenure or silent with mu locked. It wakes those that wait for moved, and
// keepBounds.
func (b *bounds) change(f func()) {
	b.mu.Lock()
	f()
	close(b.moved)
	b.moved = make(chan struct{})
	b.mu.Unlock()
	b.soon()
}

// isNews records why readHolds failed, or "" if it succeeded, and reports whether the reason is
// another than the last one. readHolds is repeated several times in a session, and must not log
// the same reason each time.
func (b *bounds) isNews(why string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.unread
	b.unread = why
	return was != why
}

// heard records that control answered a renewal. session and ttl are from the answer, sent is
// the time of the request, and now is the time of the answer.
func (b *bounds) heard(session uuid.UUID, sent, ttl, now time.Duration) {
	b.change(func() { b.silent = false; b.tenure.renewed(session, sent, ttl, now) })
}

// unheard records that control did not answer a renewal.
func (b *bounds) unheard() { b.change(func() { b.silent = true }) }

// alone reports whether promises of other nodes are needed, because what control says is not
// sufficient: control did not answer the last renewal or has not answered any renewal of this
// process, or this node has not read yet which datasets it is the home of. The caller holds mu.
func (b *bounds) alone() bool {
	return b.silent || b.tenure.unread() || b.tenure.session == uuid.Nil
}

// hold returns the state of a dataset's lease, and creates it if there is none. If the state is
// of another epoch, its deadline and promises are discarded. The caller holds mu.
func (b *bounds) hold(d dataset.Dataset) *hold {
	h := b.holds[d.ID]
	if h == nil {
		h = &hold{}
		b.holds[d.ID] = h
	}
	h.at(d.Epoch)
	return h
}

// arm records that the guard has, or may have, a dataset registered at an epoch.
func (b *bounds) arm(id uuid.UUID, epoch uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.armed[id] = epoch
}

// fenceTakes records how long a fence of a dataset takes at most, according to the guard.
// answer is the value of b.answers before the guard was asked. A report older than the recorded
// one is ignored: a status that was requested before the registration may be about an earlier
// one.
//
// If fences have become slower, the deadline becomes earlier by the difference.
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

// span returns the TTL of a session with control, or 0 if it is not known yet.
func (b *bounds) span() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tenure.ttl
}

// disarm records that the guard has forgotten a dataset.
func (b *bounds) disarm(id uuid.UUID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.armed, id)
	delete(b.kept, id)
}

// armedAt returns the epoch at which the guard has a dataset registered. armed is false if the
// guard is not known to have it.
func (b *bounds) armedAt(id uuid.UUID) (epoch uint64, armed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	epoch, armed = b.armed[id]
	return epoch, armed
}

// until returns the deadline until which a dataset may be open here, as far as known now. A
// deadline that has passed means that it may not be open.
func (b *bounds) until(d dataset.Dataset) time.Duration {
	doubted, now := b.Trust.Err() != nil, b.Clock.Steady()
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

// boundedHere returns the datasets whose home is this node and whose lease is bounded in time.
// Without a guard there are none.
func (b *bounds) boundedHere() (list []dataset.Dataset) {
	if b.guard == nil {
		return nil
	}
	for _, id := range b.Cache.IDs() {
		if d, home := b.Cache.Dataset(id); home && bounded(d) {
			list = append(list, d)
		}
	}
	return list
}

// idleBounds is the interval of keepBounds while this node is the home of no time-bounded
// dataset, or does not know the TTL of its session.
const idleBounds = time.Minute

// keepBounds extends the deadlines of the datasets that are open here, until bounds.ctx ends.
func (b *bounds) keepBounds() {
	for {
		wait := b.keepBoundsOnce(b.ctx)
		select {
		case <-b.ctx.Done():
			return
		case <-b.wake:
		case <-b.Clock.After(wait):
		}
	}
}

// keepBoundsOnce performs one round of keepBounds. It starts readHolds if this node has not
// read yet, in its current session, which datasets it is the home of. It asks the other nodes
// for promises while control is silent. Then it feeds the guard. It returns the time to wait
// before the next round.
func (b *bounds) keepBoundsOnce(ctx context.Context) (wait time.Duration) {
	list := b.boundedHere()
	b.forgetHolds()
	if len(list) == 0 {
		return idleBounds
	}
	b.mu.Lock()
	row, unread, ttl := b.tenure.row, b.tenure.unread(), b.tenure.ttl
	silent, alone := b.silent, b.alone()
	b.mu.Unlock()
	if ttl == 0 {
		return idleBounds
	}
	if unread && !silent {
		b.Jobs.Start("leases", func(ctx context.Context, _ *jobs.Job) error { b.readHolds(ctx, row); return nil })
	}
	wait = ttl / 5
	if !alone {
		b.keepAddresses(list, ttl)
	} else if !b.askAll(ctx, list, ttl/10) {
		wait = ttl / 10
	}
	b.feedGuard(ctx, list)
	return wait
}

// readHolds reads from control which datasets this node is the home of, and records that it did
// so during a row of renewals (see tenure.row). If it fails, it logs the reason, and keepBounds
// calls it again.
func (b *bounds) readHolds(ctx context.Context, row uint64) {
	s, err := b.readHomes(ctx)
	if err == nil {
		err = errors.Join(b.Trust.Err(), b.nodes.look(ctx))
	}
	if err == nil && s.Halted != "" { // another node may have noticed a restored store before this node could
		err = dataset.Errorf(dataset.ErrConflict, "%s", s.Halted)
	}
	if err != nil {
		if ctx.Err() == nil && b.isNews(err.Error()) {
			b.Log.WithError(err).Warn("what this node is the home of was not read: volumes with failover " +
				"auto are not confirmed to be its own; it is tried again")
		}
		return
	}
	b.isNews("")
	b.change(func() { b.tenure.readDuring(row) })
}

// promisers returns the nodes that could take over datasets that are open here. For each node,
// it returns the epochs that the node must promise not to exceed.
func (b *bounds) promisers(list []dataset.Dataset) map[uuid.UUID][]promise.Epoch {
	epochs := map[uuid.UUID][]promise.Epoch{}
	now := b.Clock.Steady()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range list {
		h := b.hold(d)
		if _, armed := b.armed[d.ID]; !armed || h.deadline <= now {
			continue
		}
		for _, node := range h.promisers(d.Followers()) {
			epochs[node] = append(epochs[node], promise.Epoch{Dataset: d.ID, Epoch: d.Epoch})
		}
	}
	return epochs
}

// askAll asks every node that could take over a dataset that is open here to promise not to. It
// sends one request to each node, for all datasets, and waits for most at the longest. It
// reports whether all nodes promised all that they were asked for. If there is no such node, it
// returns true.
func (b *bounds) askAll(ctx context.Context, list []dataset.Dataset, most time.Duration) (all bool) {
	epochs := b.promisers(list)
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	var wg sync.WaitGroup
	got := make(chan int, len(epochs))
	for node, wanted := range epochs {
		wg.Go(func() { got <- len(wanted) - b.askOne(ctx, node, wanted) })
	}
	wg.Wait()
	all = true
	for range epochs {
		all = <-got == 0 && all
	}
	return all
}

// askOne asks one node for promises, and returns how many of the wanted ones the node made. It
// logs errors and refusals.
func (b *bounds) askOne(ctx context.Context, node uuid.UUID, wanted []promise.Epoch) int {
	address := b.nodes.address(node)
	if address == "" || b.http == nil {
		if address == "" && b.nodes.misses(node) {
			b.Log.WithField("node", b.nodes.name(node)).
				Error("control is silent, and it is not known here where another node answers, which could " +
					"take over what is open here: it is fenced unless control is back in time")
		}
		return 0
	}
	sent := b.Clock.Steady()
	answer, err := promise.Ask(ctx, b.http, address, node, promise.Request{Incarnation: b.Incarnation, Epochs: wanted})
	log := b.Log.WithField("node", b.nodes.name(node))
	if err != nil {
		log.WithError(err).Warn("control is silent, and another node does not promise to open nothing that " +
			"is open here")
		return 0
	}
	for _, r := range answer.Refused {
		log.WithField("dataset", r.Dataset).Warnf("control is silent, and another node does not promise to "+
			"leave this alone: %s", r.Why)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range answer.Granted {
		if h := b.holds[e.Dataset]; h != nil {
			h.vow(node, e.Epoch, answer.Bound(sent))
		}
	}
	return len(answer.Granted)
}

// feedGuard sends all deadlines to the guard in one request. If the guard refuses one, because
// it has fenced the dataset or does not know it, a job repairs that: see mendSoon.
func (b *bounds) feedGuard(ctx context.Context, list []dataset.Dataset) {
	now := b.Clock.Steady()
	var feeds []guard.Feed
	for _, d := range list {
		until := b.until(d)
		if _, armed := b.armedAt(d.ID); armed && until > now {
			feeds = append(feeds, guard.Feed{
				Dataset:  d.ID,
				Epoch:    d.Epoch,
				Deadline: until,
				Most:     b.fenceMay(d, until),
			})
		}
	}
	if len(feeds) == 0 {
		return
	}
	refused, err := b.guard.Feed(ctx, feeds)
	if err != nil {
		if ctx.Err() == nil {
			b.Log.WithError(err).Error("the guard was not told how long volumes are held: it fences them " +
				"when their deadlines pass")
		}
		return
	}
	for id := range refused {
		b.mendSoon(id)
	}
}

// heldWait is how long a mount waits until control confirms which datasets this node is the
// home of.
const heldWait = 5 * time.Second

// held returns the deadline until which a dataset may be open here. If there is none yet, it
// waits for control for at most heldWait. It fails with ErrUnavailable if control does not
// answer or confirm it in time, or if control's store is not trusted, and with the error of
// ctx.
func (b *bounds) held(ctx context.Context, d dataset.Dataset) (time.Duration, error) {
	late := b.Clock.After(heldWait)
	for {
		b.mu.Lock()
		silent, moved := b.silent, b.moved
		b.mu.Unlock()
		if until := b.until(d); until > b.Clock.Steady() {
			return until, nil
		}
		if b.Trust.Err() != nil {
			return 0, b.unconfirmed(d, "control's store is not to be believed")
		}
		if silent {
			return 0, b.unconfirmed(d, "control does not answer")
		}
		b.soon()
		select {
		case <-moved:
		case <-late:
			return 0, b.unconfirmed(d, "control has not confirmed it yet")
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (b *bounds) unconfirmed(d dataset.Dataset, why string) error {
	return dataset.Errorf(dataset.ErrUnavailable,
		"cannot open volume %s: with failover auto another node may have taken it over, and %s (it is "+
			"mounted once control says that it is still node %s's)", d.Volume, why, b.NodeName)
}

// lookAgain is the minimum time between two reads of the list of nodes, if all needed addresses are known.
const lookAgain = time.Minute

// keepAddresses starts a job that reads the list of nodes from control, while control answers, if promises of other
// nodes would be needed without it. It reads after ttl if an address is unknown. Otherwise it reads after lookAgain,
// or after one second for each node in a large cluster, because addresses change: all agents together then send
// about one request a second.
func (b *bounds) keepAddresses(list []dataset.Dataset, ttl time.Duration) {
	promisers, now, n := b.promisers(list), b.Clock.Steady(), b.nodes
	n.mu.Lock()
	age := now - n.looked
	due := len(promisers) > 0 && age >= max(lookAgain, time.Duration(len(n.seen))*time.Second)
	for node := range promisers {
		due = due || n.seen[node].Address == "" && age >= ttl
	}
	if due {
		n.looked = now
	}
	n.mu.Unlock()
	if due {
		b.Jobs.Start("nodes", func(ctx context.Context, _ *jobs.Job) error {
			if err := b.nodes.look(ctx); err != nil && ctx.Err() == nil {
				b.Log.WithError(err).Warn("control was not asked where other nodes are; it is asked again")
			}
			return nil
		})
	}
}

// inherit applies the deadlines that the previous process of this agent fed to the guard on this boot. Those
// deadlines were justified, so promises of other nodes may extend them: a restarted agent keeps what is open,
// however long its start takes and whether or not control answers. inherit starts no new lease. An entry with an
// epoch other than the recorded one is ignored.
func (b *bounds) inherit(st guard.Status) {
	for _, e := range st.Datasets {
		d, home := b.Cache.Dataset(e.Dataset)
		if !home || !bounded(d) || e.State != guard.StateArmed || e.Boot != b.Boot || e.Epoch != d.Epoch {
			continue
		}
		b.mu.Lock()
		h := b.hold(d)
		h.deadline, h.fence = max(h.deadline, e.Deadline), e.Bound
		b.mu.Unlock()
	}
}
