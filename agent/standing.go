package agent

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/dataset"
)

// incarnationsKey is the key of the incarnations of this boot that control may know: the one that control
// registered last, and those that tried to register since. With them, control distinguishes a restarted agent
// from another machine with the same identity.
const incarnationsKey = "incarnations"

type incarnations struct {
	Boot string      `json:"boot"`
	IDs  []uuid.UUID `json:"ids"`
}

// incarnationsKept is the maximum number of recorded incarnations, for an agent that restarts again and again
// while control is unreachable.
const incarnationsKept = 100

// incarnate writes this incarnation to disk, after the earlier ones, before control knows it.
func (a *Agent) incarnate(ctx context.Context) error {
	var known incarnations
	if _, err := a.DB.Get(ctx, incarnationsKey, &known); err != nil {
		return err
	}
	if known.Boot == a.Boot {
		a.previous = known.IDs
	}
	if over := len(a.previous) - incarnationsKept; over > 0 {
		a.previous = append(a.previous[:1:1], a.previous[over+1:]...)
	}
	ids := append(append([]uuid.UUID(nil), a.previous...), a.Incarnation)
	return a.DB.Put(ctx, map[string]any{incarnationsKey: incarnations{a.Boot, ids}})
}

// letIn records that control has registered this incarnation: the earlier ones are over.
func (a *Agent) letIn(ctx context.Context) error {
	a.mu.Lock()
	known := a.previous == nil
	a.mu.Unlock()
	if known {
		return nil
	}
	if err := a.DB.Put(ctx, map[string]any{incarnationsKey: incarnations{a.Boot,
		[]uuid.UUID{a.Incarnation}}}); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.previous = nil
	return nil
}

// register has control record this node and its pools, and remove the records of the pools in gone. A
// registration that a later one has overtaken has old pools, and is repeated.
func (a *Agent) register(ctx context.Context, gone ...uuid.UUID) error {
	for overtaken := true; overtaken; {
		a.mu.Lock()
		previous := a.previous
		a.mu.Unlock()
		word := a.words.Add(1) // before the pools are read
		err := a.Control.Register(ctx, api.Registration{
			Node: dataset.Node{
				ID:          a.NodeID,
				Name:        a.NodeName,
				Address:     a.config.Address,
				Incarnation: a.Incarnation,
				Version:     a.config.Version,
				Does:        a.executor.Kinds(),
				Labels:      a.config.Labels,
				Word:        word,
			},
			Pools: a.pools.Records(), Gone: gone, Boot: a.Boot, Previous: previous,
		})
		if overtaken = errors.Is(err, dataset.ErrStale) && word < a.words.Load(); err != nil && !overtaken {
			return err
		}
	}
	if err := a.letIn(ctx); err != nil {
		return err
	}
	return a.storeGenerations(ctx)
}

// Standing returns when control was last notified that this agent runs: see lease.Deadlines.Session.
func (a *Agent) Standing() (renewed, ttl time.Duration) { return a.deadlines.Session() }

// replicas returns each control replica separately, or the only way to control if there are not several.
func replicas(s api.Service) []api.Service {
	several, ok := s.(interface{ Apart() []*client.Client })
	if !ok {
		return []api.Service{s}
	}
	var out []api.Service
	for _, c := range several.Apart() {
		out = append(out, c)
	}
	return out
}

// sayOutside records why control does not register this node, and logs a reason once. A nil error means that it
// does.
func (a *Agent) sayOutside(err error) {
	why := ""
	if err != nil {
		why = err.Error()
	}
	a.mu.Lock()
	said := a.outside == why
	a.outside = why
	a.mu.Unlock()
	switch {
	case said || err == nil:
	case dataset.KindOf(err) == dataset.ErrUnavailable:
		a.Log.WithError(err).Warn("control does not answer; what is here goes on, and it is asked again")
	default:
		a.Log.WithError(err).Warn("control does not take this node in; what is here goes on, and it is asked again")
	}
}
