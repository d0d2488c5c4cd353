package mounting

import (
	"context"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// Reservations reserves datasets of access many for this node, their home. An operation that needs such a dataset
// exclusively reserves it: until the reservation ends, no other node can mount the dataset. Control records each
// reservation as a shared mount of the home itself. Its methods are safe for concurrent use.
type Reservations struct {
	*host.Host
	asking host.Set // held while control is asked to reserve a dataset

	mu   sync.Mutex
	held map[uuid.UUID]reservation
}

// reservation is one shared mount of the home, used by all operations that need the dataset exclusively.
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
	unlock, err := r.asking.Lock(ctx, d.ID, "exclusive use of volume "+d.Volume)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if r.join(d.ID) {
		return func() { r.leave(d.ID) }, nil
	}
	mountID := uuid.New()
	r.count(d.ID, mountID, 1) // before control answers: see SharedMounts.Apply
	if _, err := r.Control.ReportSharedMount(ctx, r.NodeID,
		api.SharedMountReport{Incarnation: r.Incarnation, Dataset: d.ID, ID: mountID}); err != nil {
		r.count(d.ID, mountID, -1)
		if host.InDoubt(err) {
			r.End(d.ID, mountID)
		}
		return nil, err
	}
	steps.At("alone.recorded")
	return func() { r.leave(d.ID) }, nil
}

// join adds a user to an existing reservation.
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
	if mountID, over := r.count(id, uuid.Nil, -1); over {
		r.End(id, mountID)
	}
}

// count adds more to the number of operations that need a dataset exclusively; more is negative when an operation
// ends. count returns the ID of the shared mount, and whether the last of these operations has ended.
func (r *Reservations) count(id, mountID uuid.UUID, more int) (sharedMount uuid.UUID, ended bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.held[id]
	if mountID != uuid.Nil {
		s.id = mountID
	}
	if s.users += more; s.users > 0 {
		r.held[id] = s
		return s.id, false
	}
	delete(r.held, id)
	return s.id, true
}

// has reports whether a dataset is reserved. If mountID is not uuid.Nil, the reservation must be the shared mount with
// that ID.
func (r *Reservations) has(id, mountID uuid.UUID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, is := r.held[id]
	return is && (mountID == uuid.Nil || mountID == s.id)
}

// EndLeftover ends the recorded reservation of a dataset if an earlier process of this agent has made it.
func (r *Reservations) EndLeftover(d dataset.Dataset) {
	if on, recorded := d.SharedMountOf(r.NodeID); recorded && !r.has(d.ID, on.ID) {
		r.End(d.ID, on.ID)
	}
}

// End ends a reservation in a job, so that other nodes can mount the dataset again. The caller does not wait for
// control.
func (r *Reservations) End(id, mountID uuid.UUID) {
	r.Jobs.Start("alone/"+mountID.String(), func(ctx context.Context, _ *host.Job) error {
		_, err := host.UntilAnswered(ctx, r.Host,
			func() (struct{}, error) { return struct{}{}, endSharedMount(ctx, r.Host, id, mountID) })
		if err != nil && ctx.Err() == nil {
			r.Log.WithError(err).WithField("dataset",
				id).Warn("cannot report to control that exclusive use has ended; retrying at the next sync")
		}
		return nil
	})
}
