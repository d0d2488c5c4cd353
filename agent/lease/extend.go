package lease

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
)

// idleWait is the interval of Run while this node is the home of no time-bounded
// dataset, or does not know the TTL of its session.
const idleWait = time.Minute

// Run extends the deadlines of the datasets that are open here, until ctx ends.
func (b *Deadlines) Run(ctx context.Context) {
	for {
		wait := b.extendOnce(ctx)
		select {
		case <-ctx.Done():
			return
		case <-b.wake:
		case <-b.Clock.After(wait):
		}
	}
}

// extendOnce performs one round of Run. It starts readHomes if this node has not
// read yet, in its current session, which datasets it is the home of. It asks the other nodes
// for promises while control is silent. Then it feeds the guard, and has it forget the datasets
// whose lease is not bounded any more. It returns the time to wait before the next round.
func (b *Deadlines) extendOnce(ctx context.Context) (wait time.Duration) {
	list := b.Datasets()
	b.forgetLeases()
	if len(list) == 0 {
		return idleWait
	}
	b.mu.Lock()
	streak, unread, ttl := b.controlSession.streak, b.controlSession.mustRead(), b.controlSession.ttl
	silent, alone := b.silent, b.needsPromises()
	b.mu.Unlock()
	if ttl == 0 {
		return idleWait
	}
	if unread && !silent {
		b.Jobs.Start("leases", func(ctx context.Context, _ *host.Job) error { b.readHomes(ctx, streak); return nil })
	}
	wait = ttl / 5
	if !alone {
		b.Nodes.refreshIfDue(slices.Collect(maps.Keys(b.promisers(list))), ttl)
	} else if !b.askAll(ctx, list, ttl/10) {
		wait = ttl / 10
	}
	b.Feed(ctx, list)
	for _, d := range list {
		if !b.IsBounded(d) {
			b.Repairer.RepairSoon(d.ID) // the guard forgets it
		}
	}
	return wait
}

// readHomes reads from control which datasets this node is the home of, and records that it did so during a streak of
// renewals (see controlSession.streak). If it fails, it logs the reason, and Run calls it again.
func (b *Deadlines) readHomes(ctx context.Context, streak uint64) {
	s, err := b.Homes.Join(ctx)
	if err == nil {
		err = errors.Join(b.Trust.Err(), b.Nodes.Refresh(ctx))
	}
	if err == nil && s.Halted != "" { // another node may have noticed a restored store before this node could
		err = dataset.Errorf(dataset.ErrConflict, "%s", s.Halted)
	}
	if err != nil {
		if ctx.Err() == nil && b.setReadProblem(err.Error()) {
			b.Log.WithError(err).Warn("cannot read the datasets whose home is this node: leases of volumes with " +
				"failover auto are not confirmed; retrying")
		}
		return
	}
	b.setReadProblem("")
	b.change(func() { b.controlSession.setRead(streak) })
}

// promisers returns the nodes that could take over datasets that are open here. For each node,
// it returns the epochs that the node must promise not to exceed.
func (b *Deadlines) promisers(list []dataset.Dataset) map[uuid.UUID][]Epoch {
	epochs := map[uuid.UUID][]Epoch{}
	now := b.Clock.Steady()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range list {
		h := b.lease(d)
		if _, armed := b.registered[d.ID]; !armed || h.deadline <= now {
			continue
		}
		for _, node := range h.promisers(d.Followers()) {
			epochs[node] = append(epochs[node], Epoch{Dataset: d.ID, Epoch: d.Epoch})
		}
	}
	return epochs
}

// askAll asks for promises: every node that could take over a dataset that is open here is asked to promise that it
// does not. It sends one request to each node, for all datasets, and waits no longer than the argument most. It returns
// true if all nodes made all the promises, or if there is no such node.
func (b *Deadlines) askAll(ctx context.Context, list []dataset.Dataset, most time.Duration) (all bool) {
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
func (b *Deadlines) askOne(ctx context.Context, node uuid.UUID, wanted []Epoch) int {
	address := b.Nodes.Address(node)
	if address == "" || b.Peers == nil {
		if address == "" && b.Nodes.setMissing(node) {
			b.Log.WithField("node", b.Nodes.Name(node)).
				Error("control does not respond, and the address of another node is unknown, which could take " +
					"over the open volumes: they are fenced unless control responds in time")
		}
		return 0
	}
	sent := b.Clock.Steady()
	answer, err := Ask(ctx, b.Peers, address, node, Request{Incarnation: b.Incarnation, Epochs: wanted})
	log := b.Log.WithField("node", b.Nodes.Name(node))
	if err != nil {
		log.WithError(err).Warn("control does not respond, and another node refuses to promise for the open volumes")
		return 0
	}
	for _, r := range answer.Refused {
		log.WithField("dataset", r.Dataset).Warnf("control does not respond, and another node refuses its "+
			"promise for this volume: %s", r.Why)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range answer.Granted {
		if h := b.leases[e.Dataset]; h != nil {
			h.addPromise(node, e.Epoch, answer.ValidUntil(sent))
		}
	}
	return len(answer.Granted)
}

// Feed sends all deadlines to the guard in one request. If the guard refuses one, because it has fenced the dataset or
// does not know it, a job repairs that: see Repairer.
func (b *Deadlines) Feed(ctx context.Context, list []dataset.Dataset) {
	now := b.Clock.Steady()
	var feeds []guard.Feed
	for _, d := range list {
		until := b.Until(d)
		if _, armed := b.RegisteredEpoch(d.ID); armed && until > now {
			feeds = append(feeds, guard.Feed{
				Dataset:      d.ID,
				Epoch:        d.Epoch,
				Deadline:     until,
				MaxFenceTime: b.allowedFenceTime(d, until),
			})
		}
	}
	if len(feeds) == 0 {
		return
	}
	refused, err := b.Guard.Feed(ctx, feeds)
	if err != nil {
		if ctx.Err() == nil {
			b.Log.WithError(err).Error("cannot report deadlines to the guard: it fences volumes when their " +
				"deadlines pass")
		}
		return
	}
	for id := range refused {
		b.Repairer.RepairSoon(id)
	}
}
