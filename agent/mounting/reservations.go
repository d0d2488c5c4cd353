package mounting

import (
	"context"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/locks"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// Reservations reserves datasets of access many for this node, their home. An operation that needs such a dataset
// exclusively reserves it: until the reservation ends, no other node can mount the dataset. Control records each
// reservation as a stay of the home. Its methods are safe for concurrent use.
type Reservations struct {
	*host.Host
	asking locks.Set // held while control is asked to reserve a dataset

	mu   sync.Mutex
	held map[uuid.UUID]reservation
}

// NewReservations returns an empty Reservations.
func NewReservations(h *host.Host) *Reservations {
	return &Reservations{Host: h, held: map[uuid.UUID]reservation{}}
}

// reservation is one stay of the home, shared by all operations that need the dataset exclusively.
type reservation struct {
	id    uuid.UUID
	users int
}

// Reserve reserves a dataset of access many, whose home is this node, until the caller calls end. It fails with
// dataset.ErrInUse, which names the nodes, if other nodes have it mounted. It does nothing for a dataset of another
// access.
func (r *Reservations) Reserve(ctx context.Context, d dataset.Dataset) (end func(), err error) {
	if d.Profile.Access != dataset.AccessMany {
		return func() {}, nil
	}
	unlock, err := r.asking.Lock(ctx, d.ID, "having volume "+d.Volume+" alone")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if r.join(d.ID) {
		return func() { r.leave(d.ID) }, nil
	}
	stay := uuid.New()
	r.count(d.ID, stay, 1) // before control answers: see Guests.Apply
	if _, err := r.Control.Guest(ctx, r.NodeID,
		api.SharedMountReport{Incarnation: r.Incarnation, Dataset: d.ID, ID: stay}); err != nil {
		r.count(d.ID, stay, -1)
		if host.InDoubt(err) {
			r.End(d.ID, stay)
		}
		return nil, err
	}
	steps.At("alone.recorded")
	return func() { r.leave(d.ID) }, nil
}

// join adds a user to an existing stay.
func (r *Reservations) join(id uuid.UUID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, is := r.held[id]
	if is {
		s.users++
		r.held[id] = s
	}
	return is
}

func (r *Reservations) leave(id uuid.UUID) {
	if stay, over := r.count(id, uuid.Nil, -1); over {
		r.End(id, stay)
	}
}

// count adds more to the number of operations that need a dataset exclusively. It returns the stay, and whether the
// last of these operations has ended.
func (r *Reservations) count(id, stay uuid.UUID, more int) (was uuid.UUID, over bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.held[id]
	if stay != uuid.Nil {
		s.id = stay
	}
	if s.users += more; s.users > 0 {
		r.held[id] = s
		return s.id, false
	}
	delete(r.held, id)
	return s.id, true
}

// has reports whether a dataset is reserved, by the given stay unless that is uuid.Nil.
func (r *Reservations) has(id, stay uuid.UUID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, is := r.held[id]
	return is && (stay == uuid.Nil || stay == s.id)
}

// End ends a reservation in a job, so that other nodes can mount the dataset again. The caller does not wait for
// control.
func (r *Reservations) End(id, stay uuid.UUID) {
	r.Jobs.Start("alone/"+stay.String(), func(ctx context.Context, _ *jobs.Job) error {
		_, err := host.UntilAnswered(ctx, r.Host,
			func() (struct{}, error) { return struct{}{}, endStay(ctx, r.Host, id, stay) })
		if err != nil && ctx.Err() == nil {
			r.Log.WithError(err).WithField("dataset",
				id).Warn("cannot report to control that exclusive use has ended; retrying at the next sync")
		}
		return nil
	})
}
