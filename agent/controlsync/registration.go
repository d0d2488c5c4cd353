package controlsync

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Registration has control record this node and its pools. Its methods are safe for concurrent use.
type Registration struct {
	*Sync
	registrations atomic.Uint64 // how often this agent has registered

	mu       sync.Mutex
	previous []uuid.UUID // earlier incarnations of this agent, until control has registered this one
	refusal  string      // why control does not register this node, or did not answer last; "" if it is registered
}

// Refusal returns why control does not register this node: control refuses it, or did not answer the last request. It
// returns "" if this node is registered.
func (r *Registration) Refusal() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refusal
}

// incarnationsKey is the key of the incarnations of this boot that control may know: the one that control registered
// last, and those that tried to register since. They let control distinguish a restarted agent from another machine
// with the same identity.
const incarnationsKey = "incarnations"

type incarnations struct {
	Boot string      `json:"boot"`
	IDs  []uuid.UUID `json:"ids"`
}

// maxIncarnations is the maximum number of recorded incarnations, for an agent that restarts again and again
// while control is unreachable.
const maxIncarnations = 100

// Load writes this incarnation to disk, after the earlier ones, before control knows it.
func (r *Registration) Load(ctx context.Context) error {
	var known incarnations
	if _, err := r.DB.Get(ctx, incarnationsKey, &known); err != nil {
		return err
	}
	if known.Boot == r.Boot {
		r.previous = known.IDs
	}
	if over := len(r.previous) - maxIncarnations; over > 0 {
		r.previous = append(r.previous[:1:1], r.previous[over+1:]...)
	}
	ids := append(append([]uuid.UUID(nil), r.previous...), r.Incarnation)
	return r.DB.Put(ctx, map[string]any{incarnationsKey: incarnations{r.Boot, ids}})
}

// recordRegistered records that control has registered this incarnation. Control no longer needs the earlier ones.
func (r *Registration) recordRegistered(ctx context.Context) error {
	r.mu.Lock()
	known := r.previous == nil
	r.mu.Unlock()
	if known {
		return nil
	}
	if err := r.DB.Put(ctx, map[string]any{incarnationsKey: incarnations{r.Boot,
		[]uuid.UUID{r.Incarnation}}}); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.previous = nil
	return nil
}

// Register has control record this node and its pools, and remove the records of the pools in gone. If control has
// already applied a later registration of this agent, Register repeats its request with the present pools. If it fails
// with dataset.ErrRemoved, this node mounts nothing any more: see host.Membership.
func (r *Registration) Register(ctx context.Context, gone ...uuid.UUID) error {
	for overtaken := true; overtaken; {
		r.mu.Lock()
		previous := r.previous
		r.mu.Unlock()
		attempt := r.registrations.Add(1) // before the pools are read
		err := r.Control.Register(ctx, api.Registration{
			Node: dataset.Node{
				ID:                 r.NodeID,
				Name:               r.NodeName,
				Address:            r.Address,
				Incarnation:        r.Incarnation,
				Version:            r.Version,
				Labels:             r.Labels,
				RegistrationNumber: attempt,
			},
			Pools: r.Pools.Records(), RemovedPools: gone, BootID: r.Boot, PreviousIncarnations: previous,
		})
		if errors.Is(err, dataset.ErrRemoved) {
			return errors.Join(err, r.Membership.SetRemoved(ctx, err.Error()))
		}
		if overtaken = errors.Is(err, dataset.ErrStale) && attempt < r.registrations.Load(); err != nil && !overtaken {
			return err
		}
	}
	if err := cmp.Or(r.Membership.SetRemoved(ctx, ""), r.recordRegistered(ctx)); err != nil {
		return err
	}
	return r.generations.Store(ctx)
}

// SetRefusal records why control does not register this node, and logs each reason once. A nil error means that the
// node is registered.
func (r *Registration) SetRefusal(err error) {
	why := ""
	if err != nil {
		why = err.Error()
	}
	r.mu.Lock()
	said := r.refusal == why
	r.refusal = why
	r.mu.Unlock()
	switch {
	case said || err == nil:
	case dataset.KindOf(err) == dataset.ErrUnavailable:
		r.Log.WithError(err).Warn("control does not respond; local volumes keep working; retrying")
	default:
		r.Log.WithError(err).Warn("control does not register this node; local volumes keep working; retrying")
	}
}

// leaveTime bounds how long a stop waits for control.
const leaveTime = 2 * time.Second

// Leave notifies control that this agent stops, so that no request waits for this node. If the notice does not reach
// control, control notices the end of the session later. Leave does nothing if control has not accepted this node, or
// if the node has no address.
func (r *Registration) Leave(ctx context.Context) {
	if r.Address == "" || !r.Membership.HasJoined() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	last := api.Heartbeat{Incarnation: r.Incarnation, Stopping: true}
	if err := r.Control.Heartbeat(ctx, r.NodeID, last); err != nil {
		r.Log.WithError(err).Info("cannot report to control that this agent stops")
	}
}
