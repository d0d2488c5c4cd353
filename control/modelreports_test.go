package control_test

import (
	"slices"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func (m *machine) cancel(t *rapid.T) {
	var open []*job
	for _, j := range m.jobs {
		if j.state != "" {
			open = append(open, j)
		}
	}
	if len(open) == 0 {
		return
	}
	j := open[rapid.IntRange(0, len(open)-1).Draw(t, "operation")]
	_, err := m.CancelOperation(m.Ctx, j.op.ID.String())
	switch {
	case j.state == dataset.OpCancelled:
		m.expect(j.op.Kind, err, nil)
	case j.state.Final():
		m.expect(j.op.Kind, err, dataset.ErrConflict)
	case control.Makes(j.op.Kind) || j.op.Kind == dataset.OpSnapshot:
		m.expect(j.op.Kind, err, nil)
		j.state = dataset.OpCancelled
	default:
		m.expect(j.op.Kind, err, dataset.ErrUnsupported)
	}
}

// newAgent restarts a node's agent. Operations on record continue. Others are reported late, if at all.
func (m *machine) newAgent(t *rapid.T) {
	a := m.agents[rapid.IntRange(0, 1).Draw(t, "agent")]
	a.Incarnation = uuid.New()
	a.MustRegister("again")
	for _, j := range m.jobs {
		if j.agent == a && j.state != "" && rapid.Bool().Draw(t, "resumed") {
			j.incarnation = a.Incarnation
		}
	}
}

func (m *machine) time(t *rapid.T) {
	m.AdvanceClock(time.Duration(rapid.IntRange(1, 40).Draw(t, "hours")) * time.Hour)
	for _, d := range m.datasets {
		if d.state == dataset.StateTrashed && !d.until.IsZero() && !d.until.After(m.Clock.Now()) {
			d.state = dataset.StatePurging
		}
	}
	// Schedules are not part of the model, so only the trash is processed.
	m.Memory.Now = m.Clock.Now()
	m.OK(m.Uptime.Mark(m.Ctx, true))
	m.Housekeeper.ExpireTrash(m.Ctx, m.Memory)
}

// agentsPurge purges condemned datasets as agents do, with or without an operation on record.
func (m *machine) agentsPurge(*rapid.T) {
	for _, id := range m.sorted() {
		if d := m.datasets[id]; d.state == dataset.StatePurging {
			d.home.MustPurge(dataset.Dataset{ID: id, Volume: d.volume, Epoch: 1})
			m.forget(id)
		}
	}
}

// forget removes a dataset. An agent holds the dataset's lock while it destroys the dataset, so it does not report
// operations of the dataset afterwards.
func (m *machine) forget(id uuid.UUID) {
	delete(m.datasets, id)
	m.jobs = slices.DeleteFunc(m.jobs, func(j *job) bool { return j.op.DatasetID == id && j.op.Kind != dataset.OpPurge && j.winner })
}

// report reports an operation for the first time, or once more. Sometimes the answer is lost, which must not matter.
func (m *machine) report(t *rapid.T) {
	if len(m.jobs) == 0 {
		return
	}
	m.reportJob(t, m.jobs[rapid.IntRange(0, len(m.jobs)-1).Draw(t, "job")])
}

func (m *machine) reportJob(t *rapid.T, j *job) {
	r := api.Report{Incarnation: j.incarnation, Operation: j.op}
	want, lost := m.predict(j)
	if want == nil && !lost && rapid.IntRange(0, 4).Draw(t, "lose the answer") == 0 {
		m.Spy.FailFrom(rapid.IntRange(1, 12).Draw(t, "at"), true)
		_, err := m.Commit(m.Ctx, j.agent.ID, r)
		m.Spy.FailFrom(0, false)
		if err != nil {
			m.expect(j.op.Kind, err, dataset.ErrUnavailable)
		}
	}
	out, err := m.Commit(m.Ctx, j.agent.ID, r)
	m.expect(j.op, err, want)
	if out.Duplicate != lost {
		m.Fatalf("%s of %s: lost is %v", j.op.Kind, j.op.Volume, out.Duplicate)
	}
	if err == nil {
		m.apply(j, lost)
	} else if j.state == dataset.OpPending && j.incarnation == j.agent.Incarnation {
		m.fails(j, r, err)
	}
}

// fails does what an agent does if its work cannot be put on record.
func (m *machine) fails(j *job, r api.Report, err error) {
	r.Operation.Problem = dataset.ProblemOf(err)
	_, err = m.Commit(m.Ctx, j.agent.ID, r)
	m.expect(j.op, err, nil)
	j.state = dataset.OpFailed
}

// predict returns how a report must be answered: the kind of the error, or whether the create lost.
func (m *machine) predict(j *job) (want *dataset.Kind, lost bool) {
	if j.incarnation != j.agent.Incarnation {
		return dataset.ErrStale, false
	}
	d := m.datasets[j.op.DatasetID]
	switch {
	case j.state == dataset.OpCancelled:
		return dataset.ErrCancelled, false
	case j.state == dataset.OpFailed:
		return dataset.ErrConflict, false
	case j.state == dataset.OpDone && control.Makes(j.op.Kind) && d == nil:
		if _, taken := m.volumes[j.op.Volume]; !taken {
			return dataset.ErrConflict, false
		}
		return nil, true
	case j.op.Kind == dataset.OpPurge:
		return nil, false
	case control.Makes(j.op.Kind):
		return m.predictCreate(j, d)
	case d == nil:
		return dataset.ErrNotFound, false
	case j.state == dataset.OpDone:
		return nil, false
	}
	switch j.op.Kind {
	case dataset.OpSnapshot:
		if _, taken := d.snapshots[j.op.Snapshot.ID]; taken {
			return nil, false
		} else if d.state != dataset.StateReady {
			return dataset.ErrConflict, false
		} else if j.op.Snapshot.Name != "" && d.named(j.op.Snapshot.Name) {
			return dataset.ErrExists, false
		}
	case dataset.OpRestore, dataset.OpResize:
		if d.state == dataset.StatePurging && d.request != j.op.ID && !hasSnapshot(d, j.op.Snapshot) {
			return dataset.ErrConflict, false
		}
	case dataset.OpDelete:
		if d.request == j.op.ID {
			return nil, false
		} else if d.state != dataset.StateReady {
			return dataset.ErrNotFound, false
		} else if d.volume != j.op.Volume { // it was renamed
			return dataset.ErrConflict, false
		} else if d.protected && j.op.DatasetRecord == nil {
			return dataset.ErrProtected, false
		}
	}
	return nil, false
}

func hasSnapshot(d *modelled, s *dataset.Snapshot) bool {
	if s == nil {
		return false
	}
	_, ok := d.snapshots[s.ID]
	return ok
}

func (m *machine) predictCreate(j *job, d *modelled) (want *dataset.Kind, lost bool) {
	if d != nil {
		return nil, false
	}
	if _, taken := m.volumes[j.op.Volume]; taken {
		return nil, true
	}
	if src := j.op.Source; src != nil {
		from := m.datasets[src.Dataset]
		if from == nil || from.state == dataset.StatePurging {
			return dataset.ErrConflict, false
		}
		if _, there := from.snapshots[src.Snapshot]; src.Snapshot != uuid.Nil && !there {
			return dataset.ErrConflict, false
		}
	}
	return nil, false
}

// apply changes the model as an accepted report changes the store.
func (m *machine) apply(j *job, lost bool) {
	over := j.state == dataset.OpDone
	if j.state != "" && !over {
		j.state = dataset.OpDone
		if lost && m.refuses(j) {
			j.state = dataset.OpFailed
		}
	}
	d := m.datasets[j.op.DatasetID]
	switch {
	case over || lost:
	case control.Makes(j.op.Kind):
		if d == nil {
			m.made(j)
		}
	case j.op.Kind == dataset.OpPurge:
		if d != nil {
			m.forget(j.op.DatasetID)
		}
	default:
		m.applyTo(d, j)
	}
}

// refuses reports whether the existing volume differs from what a create asked for that lost against it.
func (m *machine) refuses(j *job) bool {
	is := m.datasets[m.volumes[j.op.Volume]]
	spec, err := dataset.ParseSpec(j.op.DatasetRecord.RequestedAs)
	m.OK(err)
	return j.op.Volume != is.volume || spec.Profile != "" && spec.Profile != is.profile || j.op.Source != nil && *j.op.Source != is.origin
}

func (m *machine) made(j *job) {
	p := j.op.DatasetRecord
	d := &modelled{
		volume: p.Volume, profile: p.Profile.Name, state: dataset.StateReady, size: p.Size,
		snapshots: map[uuid.UUID]string{}, request: j.op.ID, home: j.agent,
	}
	if j.op.Source != nil {
		d.origin = *j.op.Source
	}
	m.datasets[p.ID], m.volumes[p.Volume], j.winner = d, p.ID, true
	m.order = append(m.order, p.ID)
}

func (m *machine) applyTo(d *modelled, j *job) {
	switch j.op.Kind {
	case dataset.OpSnapshot, dataset.OpRestore:
		if hasSnapshot(d, j.op.Snapshot) {
			return
		}
		m.order = append(m.order, j.op.Snapshot.ID)
		d.snapshots[j.op.Snapshot.ID], d.request = j.op.Snapshot.Name, j.op.ID
	case dataset.OpSnapshotDelete:
		if hasSnapshot(d, j.op.Snapshot) {
			delete(d.snapshots, j.op.Snapshot.ID)
			d.request = j.op.ID
			m.jobs = slices.DeleteFunc(m.jobs, func(o *job) bool { // because it lasts until its snapshot is deleted
				return o != j && o.op.Snapshot != nil && o.op.Snapshot.ID == j.op.Snapshot.ID && o.op.Kind != dataset.OpSnapshotDelete
			})
		}
	case dataset.OpResize:
		d.size, d.request = j.op.DatasetRecord.Size, j.op.ID
	case dataset.OpDelete:
		if d.request == j.op.ID {
			return
		}
		for _, name := range append(d.aliases, d.volume) {
			delete(m.volumes, name)
		}
		d.aliases = nil
		d.state, d.protected, d.request = dataset.StateTrashed, false, j.op.ID
		d.until = m.Clock.Now().Add(m.TrashTime())
		switch d.profile {
		case "fleeting":
			d.state = dataset.StatePurging
		case "kept":
			d.until = time.Time{}
		}
	}
}
