package promise

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// Keeper is what one process of an agent has promised to others, in memory alone: it opens
// no later epoch within the time of a promise after its own start, so that what the process
// before it promised has passed by then. That is more than a record on disk would say, and
// costs no flush. Safe for concurrent use.
type Keeper struct {
	now   func() time.Duration
	begun time.Duration

	mu    sync.Mutex
	ready bool
	made  map[uuid.UUID]made
	sworn map[uuid.UUID]Epoch // by the dataset
}

// made is the last promise about a dataset.
type made struct {
	to    uuid.UUID
	until time.Duration
}

// NewKeeper returns one for an agent that starts now, by its CLOCK_BOOTTIME.
func NewKeeper(now func() time.Duration) *Keeper {
	return &Keeper{now: now, begun: now(), made: map[uuid.UUID]made{}, sworn: map[uuid.UUID]Epoch{}}
}

// Ready lets it promise: control has taken this process of the agent in, and said what
// its operations are, so that nothing that an earlier process asked for opens an epoch.
func (k *Keeper) Ready() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ready = true
}

// Grant answers a request that came now. span is for how long a promise holds: the time of
// a session, 0 where that is not known yet. home says why a node is not a dataset's home
// at an epoch, as far as is known here; "" when it is.
func (k *Keeper) Grant(holder uuid.UUID, r Request, span time.Duration, home func(Epoch) string) Answer {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	for id, m := range k.made {
		if m.until <= now {
			delete(k.made, id)
		}
	}
	a := Answer{For: dataset.Duration(span)}
	for _, e := range r.Epochs {
		if why := k.refuses(e, span, home); why != "" {
			a.Refused = append(a.Refused, Refusal{e, why})
			continue
		}
		k.made[e.Dataset] = made{holder, max(now+span, k.made[e.Dataset].until)}
		a.Granted = append(a.Granted, e)
	}
	return a
}

func (k *Keeper) refuses(e Epoch, span time.Duration, home func(Epoch) string) string {
	if s, sworn := k.sworn[e.Dataset]; sworn && e.Epoch <= s.Epoch {
		return fmt.Sprintf("epoch %d is to be opened here", s.Epoch+1)
	}
	if !k.ready || span <= 0 {
		return "control has not taken in this node since it started"
	}
	return home(e)
}

// Swear lets no promise be made for a dataset any more, as the epoch after e is to be
// opened here, unless one still holds: then it returns who has it, and how long to wait
// before it is asked again. A nil holder: this process has not been there for as long as a
// promise holds. Of an epoch that is sworn off already: nothing, as often as it is asked.
func (k *Keeper) Swear(e Epoch, span time.Duration) (holder uuid.UUID, wait time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	if m := k.made[e.Dataset]; m.until > now && !steps.Off("promise") {
		return m.to, m.until - now
	}
	if span <= 0 {
		return uuid.Nil, time.Second // it is not known yet
	}
	if begun := k.begun + span; begun > now {
		return uuid.Nil, begun - now
	}
	k.sworn[e.Dataset] = e
	return uuid.Nil, 0
}

// Sworn returns the datasets that are sworn off.
func (k *Keeper) Sworn() []uuid.UUID {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Keys(k.sworn))
}

// Unswear lets promises be made again: the next epoch was not opened here, for certain, or
// it was, and home says so.
func (k *Keeper) Unswear(id uuid.UUID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.sworn, id)
}
