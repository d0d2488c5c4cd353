package agent

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A status is reported to every control replica, not only to the one that is followed. It is not stored, and
// every replica must be able to answer for it. Replicas could exchange it only through the store, or by requests
// that wait for each other. A few more requests every ten seconds cost less.

// teller is one control replica that gets reports.
type teller struct {
	to   api.Service
	told map[uuid.UUID]dataset.DatasetStatus
	// generations are the reported generations of the pools.
	generations map[uuid.UUID]uint64
	// whole says that the replica knows everything. A replica that has restarted does not.
	whole  bool
	failed bool // a report failed
	away   bool // it did not answer, and is not asked again in this round
}

type tellers []*teller

func newTellers(list []api.Service) (out tellers) {
	for _, to := range list {
		out = append(out, &teller{to: to, told: map[uuid.UUID]dataset.DatasetStatus{}})
	}
	return out
}

func (l tellers) tryAgain() {
	for _, t := range l {
		t.away = false
	}
}

// lookRounds is the number of heartbeats in which each dataset without a use is examined once, about an hour by
// default. Control relies on the reports when it removes copies.
const lookRounds = 360

// rota selects the datasets that are examined in a heartbeat, in turn.
type rota struct {
	rest []uuid.UUID
	each int
}

func (r *rota) next(all func() []uuid.UUID) []uuid.UUID {
	if len(r.rest) == 0 {
		r.rest = all()
		r.each = (len(r.rest) + lookRounds - 1) / lookRounds
	}
	n := min(r.each, len(r.rest))
	now := r.rest[:n]
	r.rest = r.rest[n:]
	return now
}

// told returns the datasets that were reported to any replica as mounted or as having a problem.
func (l tellers) told() (ids []uuid.UUID) {
	seen := map[uuid.UUID]bool{}
	for _, t := range l {
		for id := range t.told {
			if !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
		}
	}
	return ids
}

const (
	// tellAtOnce is the maximum number of datasets in one heartbeat, because its body is bounded.
	tellAtOnce = 500
	// tellTime is how long one of several replicas may take for a heartbeat.
	tellTime = 5 * time.Second
	// tellPoolsTime is how long the creation of a pool waits for the report of it.
	tellPoolsTime = 2 * time.Second
)

// tell reports the datasets whose status differs from the reported one, and all of them to a replica that knows
// nothing yet.
func (a *Agent) tell(ctx context.Context, all tellers, ids []uuid.UUID) {
	var known, new tellers
	for _, t := range all {
		switch {
		case t.away:
		case t.whole:
			known = append(known, t)
		default:
			new = append(new, t)
		}
	}
	if len(known) > 0 {
		a.tellThese(ctx, known, ids)
	}
	if len(new) == 0 {
		return
	}
	for _, t := range new {
		t.failed = false
	}
	a.tellThese(ctx, new, slices.Concat(a.Cache.IDs(), a.Cache.CopyIDs(), a.guestTable.IDs()))
	for _, t := range new {
		t.whole = !t.failed
	}
}

// tellPools reports the state of the pools at once, for a user who has created one and looks at it next. What
// fails here is in the next heartbeat.
func (a *Agent) tellPools(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, tellPoolsTime)
	defer cancel()
	all := newTellers(a.apart)
	for _, t := range all {
		t.whole = true // it reports no dataset: a replica that knows none waits for all
	}
	a.tellSome(ctx, all, nil)
}

func (a *Agent) tellThese(ctx context.Context, all tellers, ids []uuid.UUID) {
	for {
		n := min(len(ids), tellAtOnce)
		a.tellSome(ctx, all, ids[:n])
		if ids = ids[n:]; len(ids) == 0 || ctx.Err() != nil {
			return
		}
	}
}

func (a *Agent) tellSome(ctx context.Context, all tellers, ids []uuid.UUID) {
	h := api.Heartbeat{
		Incarnation: a.Incarnation,
		Pools:       a.pools.Status(ctx),
		Unmade:      a.pools.Unmade,
		Operations:  a.Jobs.Running(),
		Guard:       a.registrar.IsAnswering(),
	}
	h.Distrust, h.Clock = a.Trust.Why(), a.Clock.Now()
	var seen []dataset.DatasetStatus
	for _, id := range ids {
		d, ok := a.Cache.Dataset(id)
		if c, replica := a.replicas.Copy(id); replica && !ok {
			h.Copies = append(h.Copies, c)
		}
		if g, guest := a.guestTable.Get(id); guest && !ok {
			seen = append(seen, a.guests.Status(g))
			continue
		}
		if !ok {
			for _, t := range all {
				delete(t.told, id)
			}
			continue
		}
		seen = append(seen, a.datasetStatus(ctx, d))
	}
	if ctx.Err() != nil {
		return // a pool that did not answer before the stop is not offline
	}
	if len(a.apart) == 1 {
		a.tellOne(ctx, all[0], h, seen)
		return
	}
	var wg sync.WaitGroup
	for _, t := range all {
		if t.away { // since an earlier part of the same report
			continue
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, tellTime)
			defer cancel()
			a.tellOne(ctx, t, h, seen)
		})
	}
	wg.Wait()
}

// tellOne reports to one replica what differs from the last report. It logs nothing if control does not answer,
// because follow does.
func (a *Agent) tellOne(ctx context.Context, t *teller, h api.Heartbeat, seen []dataset.DatasetStatus) {
	for _, st := range seen {
		if old, was := t.told[st.ID]; !was || !sameStatus(old, st) {
			h.Datasets = append(h.Datasets, st)
		}
	}
	h.Whole = t.whole
	if err := t.to.Heartbeat(ctx, a.NodeID, h); err != nil {
		// The replica has restarted, or misses a report meanwhile.
		t.whole = false
		clear(t.told)
		t.generations = nil
		t.away = len(a.apart) > 1 && !errors.Is(err, dataset.ErrConflict)
		t.failed = true
		return
	}
	for _, st := range h.Datasets {
		t.told[st.ID] = st
		if !st.Mounted && st.Problem == "" { // a problem may end by itself, as when a pool is online again
			delete(t.told, st.ID)
		}
	}
	is := a.pools.Generations()
	if maps.Equal(t.generations, is) {
		return
	}
	if _, err := a.tellGenerations(ctx, t.to, is, true); err == nil || errors.Is(err, errNotKept) {
		t.generations = is
	}
}
