package control_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// model is what the service should have on record, kept in a few maps.
type model struct {
	volumes  map[string]uuid.UUID
	datasets map[uuid.UUID]*modelled
	order    []uuid.UUID // datasets and snapshots in the order of their creation, so that a failure can be repeated
	jobs     []*job
}

type modelled struct {
	volume, profile string
	aliases         []string
	state           dataset.State
	protected       bool
	size            dataset.Size
	origin          dataset.Source
	snapshots       map[uuid.UUID]string // name
	request         uuid.UUID            // the operation that last wrote it
	until           time.Time
	home            *controltest.Agent
}

// job is an operation that an agent works on. The agent may report it any number of times.
type job struct {
	op          dataset.Operation
	agent       *controltest.Agent
	incarnation uuid.UUID
	state       dataset.OpState // if on record; "" otherwise
	winner      bool            // for a create: its dataset has been made
}

// machine applies the same steps to a service with two nodes and to the model.
type machine struct {
	*controltest.Control
	model
	agents []*controltest.Agent
}

// The test compares the whole service with the model: creates, clones, snapshots, restores, resizes, deletes,
// undeletes and purges of two nodes are planned, submitted and reported in any order. Some reports arrive late or
// twice, come from agents that were replaced, or lose their answer.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{Control: controltest.New(t), model: model{volumes: map[string]uuid.UUID{}, datasets: map[uuid.UUID]*modelled{}}}
		for _, name := range []string{"alpha", "beta"} {
			a := m.NewAgent(name)
			m.agents = append(m.agents, a)
		}
		slices.SortFunc(m.agents, func(a, b *controltest.Agent) int { return slices.Compare(a.ID[:], b.ID[:]) })
		m.begin(t)
		actions := []func(*rapid.T){
			m.create, m.clone, m.change, m.change, m.change, m.report, m.report, m.undelete, m.purge, m.agentsPurge, m.protect,
			m.rename, m.dropAlias,
			m.cancel, m.newAgent, func(*rapid.T) { m.Restart() }, m.time,
		}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			actions[rapid.IntRange(0, len(actions)-1).Draw(t, "action")](t)
			m.compare()
		}
	})
}

// begin creates at least one thing of every kind.
func (m *machine) begin(t *rapid.T) {
	for _, req := range []api.Request{
		controltest.Create("aa@gold"), controltest.Create("bb@fleeting"), controltest.Create("cc"), {Kind: dataset.OpSnapshot, Volume: "aa", Name: "one"},
		{Kind: dataset.OpSnapshot, Volume: "cc"}, {Kind: dataset.OpDelete, Volume: "cc"},
	} {
		m.ask(t, req, nil)
		if j := m.jobs[len(m.jobs)-1]; j.state != dataset.OpDone {
			m.reportJob(t, j)
		}
	}
}

var (
	modelNames    = []string{"aa", "bb", "cc", "dd"}
	modelProfiles = []string{"", "gold", "silver", "fleeting", "kept"}
)

// compare checks the invariants of the store, and compares the store with the model.
func (m *machine) compare() {
	m.Helper()
	st := m.CheckInvariants()
	if len(st.Datasets) != len(m.datasets) {
		m.Fatalf("%d datasets, not %d", len(st.Datasets), len(m.datasets))
	}
	snapshots := 0
	for id, want := range m.datasets {
		d, ok := st.Datasets[id]
		if !ok || d.Volume != want.volume || !slices.Equal(d.Aliases, want.aliases) || d.State != want.state || d.Protected != want.protected || d.Size != want.size ||
			d.Profile.Name != want.profile || d.Home != want.home.ID || d.Request != want.request {
			m.Fatalf("dataset %s is %+v, not %+v", id, d, want)
		}
		for s, name := range want.snapshots {
			if got, ok := st.Snapshots[s]; !ok || got.Name != name || got.Dataset != id {
				m.Fatalf("snapshot %s of %s is %+v, not %q", s, id, got, name)
			}
		}
		snapshots += len(want.snapshots)
	}
	if len(st.Snapshots) != snapshots {
		m.Fatalf("%d snapshots, not %d", len(st.Snapshots), snapshots)
	}
	for _, j := range m.jobs {
		if got := st.Operations[j.op.ID].State; got != j.state {
			m.Fatalf("operation %s (%s) is %q on record, not %q", j.op.ID, j.op.Kind, got, j.state)
		}
	}
	if len(m.Failures) != 0 {
		m.Fatalf("the background work failed: %v", m.Failures)
	}
}

// ask plans a request at an agent, or submits it, and adopts the operation. It returns false if there was no
// operation.
func (m *machine) ask(t *rapid.T, req api.Request, want *dataset.Kind) bool {
	a := m.agents[rapid.IntRange(0, 1).Draw(t, "asking")]
	req.ID = uuid.New()
	j := &job{}
	if rapid.Bool().Draw(t, "submitted") {
		out, err := m.Submit(m.Ctx, req)
		m.expect(req, err, want)
		if err != nil || out.Operation == nil {
			return false
		}
		j.op, j.state = *out.Operation, dataset.OpPending
	} else {
		p, err := m.Plan(m.Ctx, a.ID, req)
		m.expect(req, err, want)
		if err != nil || p.Operation == nil {
			return false
		}
		j.op = *p.Operation
	}
	j.agent = m.agents[0]
	if j.op.Node != j.agent.ID {
		j.agent = m.agents[1]
	}
	j.incarnation = j.agent.Incarnation
	m.jobs = append(m.jobs, j)
	if rapid.Bool().Draw(t, "at once") {
		m.reportJob(t, j)
	}
	return true
}

func (m *machine) expect(what any, err error, want *dataset.Kind) {
	m.Helper()
	if dataset.KindOf(err) != want {
		m.Fatalf("%+v: got %v (%v), want %v", what, err, dataset.KindOf(err), want)
	}
}

func (m *machine) create(t *rapid.T) {
	name, profile := rapid.SampledFrom(modelNames).Draw(t, "name"), rapid.SampledFrom(modelProfiles).Draw(t, "profile")
	spec := name
	if profile != "" {
		spec += "@" + profile
	}
	var want *dataset.Kind
	id, exists := m.volumes[name]
	if exists && (profile != "" && m.datasets[id].profile != profile || m.datasets[id].volume != name) {
		want = dataset.ErrExists
	}
	if m.ask(t, controltest.Create(spec), want) == (exists || want != nil) {
		m.Fatalf("create %s: exists %v, %v", spec, exists, want)
	}
}

func (m *machine) clone(t *rapid.T) {
	src, ok := m.drawSource(t)
	if !ok {
		return
	}
	from := src.Dataset
	if src.Snapshot != uuid.Nil {
		from = src.Snapshot
	}
	name := rapid.SampledFrom(modelNames).Draw(t, "name")
	var want *dataset.Kind
	id, exists := m.volumes[name]
	if exists && (m.datasets[id].origin != src || m.datasets[id].volume != name) {
		want = dataset.ErrExists
	}
	if m.ask(t, controltest.Create(name+"@snapshot-"+from.String()), want) == (exists || want != nil) {
		m.Fatalf("clone %s of %s: exists %v, %v", name, from, exists, want)
	}
}

// drawSource draws a dataset, live or in the trash, or a snapshot of one.
func (m *machine) drawSource(t *rapid.T) (dataset.Source, bool) {
	var all []dataset.Source
	for _, id := range m.sorted() {
		d := m.datasets[id]
		if d.state == dataset.StatePurging {
			continue
		}
		all = append(all, dataset.Source{Dataset: id})
		for _, s := range inOrder(m, d.snapshots) {
			all = append(all, dataset.Source{Dataset: id, Snapshot: s})
		}
	}
	if len(all) == 0 {
		return dataset.Source{}, false
	}
	return all[rapid.IntRange(0, len(all)-1).Draw(t, "source")], true
}

func (m *machine) sorted() []uuid.UUID { return inOrder(m, m.datasets) }

func inOrder[V any](m *machine, of map[uuid.UUID]V) (ids []uuid.UUID) {
	for _, id := range m.order {
		if _, ok := of[id]; ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// change requests a change of a volume.
func (m *machine) change(t *rapid.T) {
	name := m.drawVolume(t)
	kind := rapid.SampledFrom([]dataset.OpKind{dataset.OpSnapshot, dataset.OpSnapshot, dataset.OpSnapshotDelete, dataset.OpRestore, dataset.OpResize, dataset.OpDelete, dataset.OpDelete}).Draw(t, "kind")
	req := api.Request{Kind: kind, Volume: name}
	id, exists := m.volumes[name]
	if !exists {
		if kind == dataset.OpResize {
			req.Size = "1GiB"
		}
		m.ask(t, req, dataset.ErrNotFound)
		return
	}
	d := m.datasets[id]
	var want *dataset.Kind
	switch kind {
	case dataset.OpSnapshot:
		req.Name = rapid.SampledFrom([]string{"", "one", "two"}).Draw(t, "snapshot's name")
		if req.Name != "" && d.named(req.Name) {
			want = dataset.ErrExists
		}
	case dataset.OpSnapshotDelete, dataset.OpRestore:
		if len(d.snapshots) == 0 {
			req.Snapshot, want = "one", dataset.ErrNotFound
			break
		}
		all := inOrder(m, d.snapshots)
		req.Snapshot = all[rapid.IntRange(0, len(all)-1).Draw(t, "snapshot")].String()
	case dataset.OpResize:
		size := max(d.size, 20*dataset.GiB) + dataset.GiB
		req.Size = size.String()
	case dataset.OpDelete:
		if req.Force = rapid.Bool().Draw(t, "force"); d.protected && !req.Force {
			want = dataset.ErrProtected
		}
		if d.volume != name {
			want = dataset.ErrInvalid
		}
	}
	m.ask(t, req, want)
}

// drawVolume draws a name, which is that of a volume if there is one.
func (m *machine) drawVolume(t *rapid.T) string {
	if have := slices.Sorted(maps.Keys(m.volumes)); len(have) > 0 {
		return rapid.SampledFrom(have).Draw(t, "volume")
	}
	return rapid.SampledFrom(modelNames).Draw(t, "name")
}

func (d *modelled) named(name string) bool {
	return slices.Contains(slices.Collect(maps.Values(d.snapshots)), name)
}

func (m *machine) protect(t *rapid.T) {
	name, on := m.drawVolume(t), rapid.Bool().Draw(t, "on")
	req := api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: name, Protect: &on}
	_, err := m.Submit(m.Ctx, req)
	id, exists := m.volumes[name]
	if !exists {
		m.expect(req, err, dataset.ErrNotFound)
		return
	}
	m.expect(req, err, nil)
	if d := m.datasets[id]; d.protected != on {
		d.protected, d.request = on, req.ID
	}
}

// rename gives a volume another name, by its name or an alias.
func (m *machine) rename(t *rapid.T) {
	name, to := m.drawVolume(t), rapid.SampledFrom(modelNames).Draw(t, "new name")
	req := controltest.Rename(name, to)
	req.ID = uuid.New()
	_, err := m.Submit(m.Ctx, req)
	id, exists := m.volumes[name]
	other, taken := m.volumes[to]
	switch d := m.datasets[id]; {
	case !exists:
		m.expect(req, err, dataset.ErrNotFound)
	case taken && other != id:
		m.expect(req, err, dataset.ErrExists)
	default:
		m.expect(req, err, nil)
		if d.volume != to {
			d.aliases = append([]string{d.volume}, slices.DeleteFunc(d.aliases, func(a string) bool { return a == to })...)
			d.volume, d.request, m.volumes[to] = to, req.ID, id
		}
	}
}

// dropAlias ends an alias of a volume, or tries to.
func (m *machine) dropAlias(t *rapid.T) {
	name, alias := m.drawVolume(t), rapid.SampledFrom(modelNames).Draw(t, "alias")
	req := controltest.DropAlias(name, alias)
	req.ID = uuid.New()
	id, exists := m.volumes[name]
	if exists {
		m.datasets[id].home.ReportIdle(id.String())
	}
	_, err := m.Submit(m.Ctx, req)
	switch d := m.datasets[id]; {
	case exists && d.volume == alias:
		m.expect(req, err, dataset.ErrInvalid)
	case !exists || !slices.Contains(d.aliases, alias):
		m.expect(req, err, dataset.ErrNotFound)
	default:
		m.expect(req, err, nil)
		d.aliases = slices.DeleteFunc(d.aliases, func(a string) bool { return a == alias })
		d.request = req.ID
		delete(m.volumes, alias)
	}
}

func (m *machine) undelete(t *rapid.T) {
	id, d := m.drawDataset(t)
	if d == nil {
		return
	}
	req := api.Request{ID: uuid.New(), Kind: dataset.OpUndelete, Volume: id.String(), Name: rapid.SampledFrom(modelNames).Draw(t, "name")}
	_, err := m.Submit(m.Ctx, req)
	_, taken := m.volumes[req.Name]
	switch {
	case d.state != dataset.StateTrashed:
		m.expect(req, err, dataset.ErrNotFound)
	case taken:
		m.expect(req, err, dataset.ErrExists)
	default:
		m.expect(req, err, nil)
		d.state, d.volume, d.request = dataset.StateReady, req.Name, req.ID
		m.volumes[req.Name] = id
	}
}

func (m *machine) drawDataset(t *rapid.T) (uuid.UUID, *modelled) {
	if len(m.datasets) == 0 {
		return uuid.Nil, nil
	}
	all := m.sorted()
	id := all[rapid.IntRange(0, len(all)-1).Draw(t, "dataset")]
	return id, m.datasets[id]
}

func (m *machine) purge(t *rapid.T) {
	id, d := m.drawDataset(t)
	if d == nil {
		return
	}
	req := api.Request{ID: uuid.New(), Kind: dataset.OpPurge, Volume: id.String()}
	out, err := m.Submit(m.Ctx, req)
	if d.state == dataset.StateReady {
		m.expect(req, err, dataset.ErrNotFound)
		return
	}
	m.expect(req, err, nil)
	d.state = dataset.StatePurging
	m.jobs = append(m.jobs, &job{op: *out.Operation, agent: d.home, incarnation: d.home.Incarnation, state: dataset.OpPending})
}
