package agent

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// aloneStay is one stay of the home, shared by all who need the dataset alone.
type aloneStay struct {
	id    uuid.UUID
	users int
}

// alone reserves a dataset of access many, whose home is this node, for this node only, until the returned
// function is called. dataset.ErrInUse names who has it mounted elsewhere.
func (a *Agent) alone(ctx context.Context, d dataset.Dataset) (end func(), err error) {
	if d.Profile.Access != dataset.AccessMany {
		return func() {}, nil
	}
	unlock, err := a.guests.asking.Lock(ctx, d.ID, "having volume "+d.Volume+" alone")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if a.joinAlone(d.ID) {
		return func() { a.notAlone(d.ID) }, nil
	}
	stay := uuid.New()
	a.setAlone(d.ID, stay, 1) // before control answers: see takeGuests
	if _, err := a.Control.Guest(ctx, a.NodeID,
		api.Stay{Incarnation: a.Incarnation, Dataset: d.ID, ID: stay}); err != nil {
		a.setAlone(d.ID, stay, -1)
		if operation.InDoubt(err) {
			a.endAlone(d.ID, stay)
		}
		return nil, err
	}
	steps.At("alone.recorded")
	return func() { a.notAlone(d.ID) }, nil
}

// joinAlone adds a user to an existing stay.
func (a *Agent) joinAlone(id uuid.UUID) bool {
	a.guests.mu.Lock()
	defer a.guests.mu.Unlock()
	s, is := a.guests.alone[id]
	if is {
		s.users++
		a.guests.alone[id] = s
	}
	return is
}

func (a *Agent) notAlone(id uuid.UUID) {
	if stay, over := a.setAlone(id, uuid.Nil, -1); over {
		a.endAlone(id, stay)
	}
}

// setAlone counts who needs a dataset alone. over: nobody does any more.
func (a *Agent) setAlone(id, stay uuid.UUID, more int) (was uuid.UUID, over bool) {
	a.guests.mu.Lock()
	defer a.guests.mu.Unlock()
	s := a.guests.alone[id]
	if stay != uuid.Nil {
		s.id = stay
	}
	if s.users += more; s.users > 0 {
		a.guests.alone[id] = s
		return s.id, false
	}
	delete(a.guests.alone, id)
	return s.id, true
}

// isAlone reports whether a dataset is needed alone, by the given stay if there is one.
func (a *Agent) isAlone(id, stay uuid.UUID) bool {
	a.guests.mu.Lock()
	defer a.guests.mu.Unlock()
	s, is := a.guests.alone[id]
	return is && (stay == uuid.Nil || stay == s.id)
}

// endAlone lets other nodes mount the dataset again, as a separate job: only those who are kept out wait for
// that.
func (a *Agent) endAlone(id, stay uuid.UUID) {
	a.Jobs.Start("alone/"+stay.String(), func(ctx context.Context, _ *jobs.Job) error {
		_, err := host.UntilAnswered(ctx, a.Host,
			func() (struct{}, error) { return struct{}{}, a.endStay(ctx, id, stay) })
		if err != nil && ctx.Err() == nil {
			a.Log.WithError(err).WithField("dataset",
				id).Warn("control was not told that it is needed alone no more; the next sync tries again")
		}
		return nil
	})
}
