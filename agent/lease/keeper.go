package lease

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

// Keeper has the promises that this process of the agent has made to other nodes, in memory only. The promises of the
// previous process are not known. So this process opens no later epoch until the duration of a promise has passed
// since its start. By then all promises of the previous process have expired. Waiting is safer than a record on disk,
// and costs no flush. Safe for concurrent use: mu protects all fields that change.
type Keeper struct {
	clock   steadyClock
	started time.Duration

	mu       sync.Mutex
	ready    bool
	promises map[uuid.UUID]grantedPromise
	blocked  map[uuid.UUID]Epoch // by dataset
}

// grantedPromise is the last promise about a dataset.
type grantedPromise struct {
	to    uuid.UUID
	until time.Duration
}

// steadyClock is the part of clock.Clock that a Keeper needs.
type steadyClock interface{ Steady() time.Duration }

// NewKeeper returns a Keeper for an agent that starts now.
func NewKeeper(c steadyClock) *Keeper {
	return &Keeper{
		clock: c, started: c.Steady(), promises: map[uuid.UUID]grantedPromise{}, blocked: map[uuid.UUID]Epoch{},
	}
}

// SetReady allows promises. It is called when control has registered this process of the agent and reported its
// operations to it, so that no request of an earlier process can still open an epoch.
func (k *Keeper) SetReady() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ready = true
}

// Grant answers a request that arrived now. span is how long a promise holds: the duration of a session, or 0 if that
// is not known yet. home returns why the holder is not the home of a dataset at an epoch, as far as this node knows, or
// "" if it is.
func (k *Keeper) Grant(holder uuid.UUID, r Request, span time.Duration, home func(Epoch) string) Answer {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.clock.Steady()
	for id, m := range k.promises {
		if m.until <= now {
			delete(k.promises, id)
		}
	}
	a := Answer{Duration: dataset.Duration(span)}
	for _, e := range r.Epochs {
		if why := k.refusal(e, span, home); why != "" {
			a.Refused = append(a.Refused, Refusal{e, why})
			continue
		}
		k.promises[e.Dataset] = grantedPromise{holder, max(now+span, k.promises[e.Dataset].until)}
		a.Granted = append(a.Granted, e)
	}
	return a
}

func (k *Keeper) refusal(e Epoch, span time.Duration, home func(Epoch) string) string {
	if s, sworn := k.blocked[e.Dataset]; sworn && e.Epoch <= s.Epoch {
		return fmt.Sprintf("epoch %d is about to be opened here", s.Epoch+1)
	}
	if !k.ready || span <= 0 {
		return "control has not registered this node since it started"
	}
	return home(e)
}

// BlockPromises prepares this node to open the epoch after e: from now on, Grant refuses promises for e and for earlier
// epochs of the dataset. span is the duration of a promise, or 0 if that is not known. If a promise still holds,
// BlockPromises changes nothing, and returns its holder and how long to wait before the next attempt. If wait is 0, the
// epoch may be opened. If wait is not 0 and holder is uuid.Nil, this process has not run for the duration of a promise
// yet, or the duration is not known. Idempotent.
func (k *Keeper) BlockPromises(e Epoch, span time.Duration) (holder uuid.UUID, wait time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.clock.Steady()
	if m := k.promises[e.Dataset]; m.until > now && !steps.Off("promise") {
		return m.to, m.until - now
	}
	if span <= 0 {
		return uuid.Nil, time.Second // the duration is not known yet
	}
	if begun := k.started + span; begun > now {
		return uuid.Nil, begun - now
	}
	k.blocked[e.Dataset] = e
	return uuid.Nil, 0
}

// Blocked returns the datasets whose promises BlockPromises has blocked.
func (k *Keeper) Blocked() []uuid.UUID {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Keys(k.blocked))
}

// AllowPromises allows promises for a dataset again. The caller must know that no request of this node can open the
// next epoch any more. If the epoch was opened, the function home that is passed to Grant must return a reason, so that
// Grant refuses promises to the previous holder.
func (k *Keeper) AllowPromises(id uuid.UUID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.blocked, id)
}
