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

// What a node sees is told to every control replica, not to the one that is followed
// alone: it is stored nowhere, and whichever a person asks is to know how a volume is.
// Between replicas it would have to be written; asking the one that is followed would
// have a replica that is asked wait for another. A few requests more every ten seconds
// are cheaper than both.

// teller is one control replica that is told.
type teller struct {
	to   api.Service
	told map[uuid.UUID]dataset.DatasetStatus
	// generations are those of the pools, as it was told.
	generations map[uuid.UUID]uint64
	// whole says that it knows of everything; one that was started anew does not.
	whole  bool
	failed bool // something that it was to be told
	away   bool // it did not answer: it is left alone until the next round
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

// lookRounds is in how many rounds each dataset is looked at once that nobody uses: in an hour,
// by default. Control goes by what was told of it when it lets go of copies.
const lookRounds = 360

// rota has datasets looked at in turn.
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

// told are the datasets of which any was told that they are in use, or not well.
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
	// tellAtOnce bounds the datasets of one heartbeat: its body is bounded.
	tellAtOnce = 500
	// tellTime is what one of several replicas has to take a heartbeat.
	tellTime = 5 * time.Second
	// tellPoolsTime is what who made a pool waits for the word of it.
	tellPoolsTime = 2 * time.Second
)

// tell sends the status of those datasets that is another than was told, and all of
// it to a replica that knows nothing yet.
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
	a.tellThese(ctx, new, slices.Concat(a.Cache.IDs(), a.Cache.CopyIDs(), a.guests.ids()))
	for _, t := range new {
		t.whole = !t.failed
	}
}

// tellPools tells at once how the pools are, for whoever made one and looks at it next. What it misses the
// heartbeat that comes soon tells.
func (a *Agent) tellPools(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, tellPoolsTime)
	defer cancel()
	all := newTellers(a.apart)
	for _, t := range all {
		t.whole = true // it is no word of datasets: who knows of none waits for all
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
		if g, guest := a.guests.get(id); guest && !ok {
			seen = append(seen, a.guestStatus(g))
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
		return // what was not answered in time to a stop is not offline
	}
	if len(a.apart) == 1 {
		a.tellOne(ctx, all[0], h, seen)
		return
	}
	var wg sync.WaitGroup
	for _, t := range all {
		if t.away { // since an earlier part of the same
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

// tellOne tells one replica of what is another than it was told. That control is away
// follow says; once is enough.
func (a *Agent) tellOne(ctx context.Context, t *teller, h api.Heartbeat, seen []dataset.DatasetStatus) {
	for _, st := range seen {
		if old, was := t.told[st.ID]; !was || !sameStatus(old, st) {
			h.Datasets = append(h.Datasets, st)
		}
	}
	h.Whole = t.whole
	if err := t.to.Heartbeat(ctx, a.NodeID, h); err != nil {
		// It was started anew, or misses what is told meanwhile.
		t.whole = false
		clear(t.told)
		t.generations = nil
		t.away = len(a.apart) > 1 && !errors.Is(err, dataset.ErrConflict)
		t.failed = true
		return
	}
	for _, st := range h.Datasets {
		t.told[st.ID] = st
		if !st.Mounted && st.Problem == "" { // which may be over by itself, as when a pool is back
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
