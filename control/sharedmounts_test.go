package control_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// stay is the request that an agent makes. The ID identifies the stay.
func stay(a *controltest.Agent, d dataset.Dataset, id uuid.UUID) (api.IndexedDataset, error) {
	return a.ReportSharedMount(a.Ctx, a.ID, api.SharedMountReport{Incarnation: a.Incarnation, Dataset: d.ID, ID: id})
}

func stays(a *controltest.Agent, d dataset.Dataset) uuid.UUID {
	a.Helper()
	id := uuid.New()
	got, err := stay(a, d, id)
	require.NoErrorf(a, err, "stay")
	if g, stays := got.SharedMountOf(a.ID); !stays || g.ID != id || got.Index == 0 {
		a.Errorf("it is admitted as %+v of %+v", g, got)
	}
	return id
}

func leaves(a *controltest.Agent, d dataset.Dataset, id uuid.UUID) {
	a.Helper()
	if _, err := a.ReportSharedMount(a.Ctx, a.ID, api.SharedMountReport{Incarnation: a.Incarnation, Dataset: d.ID, ID: id, Ended: true}); err != nil {
		a.Fatalf("end of a stay: %v", err)
	}
}

func createMany(a *controltest.Agent, name string) dataset.Dataset {
	a.Helper()
	a.ProfileSet.ByName["many"] = dataset.Profile{Name: "many", Revision: "r1-many", Quiesce: dataset.QuiesceFreeze, OnDelete: dataset.OnDelete{Mode: dataset.DeleteTrash}, Access: dataset.AccessMany}
	return a.MustCreate(name+"@many", "pool=shared")
}

// guests returns the nodes on record as guests of a volume.
func guests(e *controltest.Control, volume string) (ids []uuid.UUID) {
	e.Helper()
	e.CheckInvariants()
	for _, g := range e.MustVolume(volume).SharedMounts {
		ids = append(ids, g.Node)
	}
	return ids
}

// A node of the share is recorded as a guest before it mounts the volume, and until it reports the end of the same
// stay. A report about an earlier stay does not count.
func TestGuests(t *testing.T) {
	e := controltest.New(t)
	share := uuid.New()
	a, b, c := e.NewAgentOnShare("alpha", share), e.NewAgentOnShare("beta", share), e.NewAgentOnShare("gamma", share)
	d := createMany(a, "db")
	rev := b.MustSync(0).Revision
	first := stays(b, d)
	if s := b.MustSync(rev); len(s.SharedMounts) != 1 || s.SharedMounts[0].ID != d.ID || s.SharedMounts[0].Index == 0 {
		t.Errorf("the node gets %+v", s)
	}
	before := e.MustVolume("db")
	if again, err := stay(b, d, first); err != nil || len(again.SharedMounts) != 1 || e.MustVolume("db").Lease.Epoch != before.Lease.Epoch {
		t.Errorf("asked again: %+v, %v", again, err)
	}
	stays(c, d)
	if got := guests(e, "db"); !slices.Equal(got, []uuid.UUID{b.ID, c.ID}) {
		t.Errorf("on record: %v", got)
	}
	if v := e.MustVolume("db"); v.Home != a.ID || v.Epoch != d.Epoch || v.Move != uuid.Nil {
		t.Errorf("its home: %+v", v.Dataset)
	}
	second := stays(b, d)
	leaves(b, d, first) // which was delayed for long
	if got := guests(e, "db"); len(got) != 2 {
		t.Errorf("an earlier stay ended a later one: %v", got)
	}
	leaves(b, d, second)
	leaves(b, d, second)
	if got := guests(e, "db"); !slices.Equal(got, []uuid.UUID{c.ID}) {
		t.Errorf("on record: %v", got)
	}
	if s := b.MustSync(0); len(s.SharedMounts) != 0 {
		t.Errorf("the node gets %+v", s)
	}
	if s := c.MustSync(0); len(s.SharedMounts) != 1 || !s.Full {
		t.Errorf("with a new stay it gets %+v", s)
	}
}

// A node that may not have the volume mounted at the same time as its home is refused, and nothing is recorded.
func TestGuestsThatAreRefused(t *testing.T) {
	e := controltest.New(t)
	share := uuid.New()
	a, b := e.NewAgentOnShare("alpha", share), e.NewAgentOnShare("beta", share)
	other, off := e.NewAgentOnShare("gamma", uuid.New()), e.NewAgentOnShare("delta", uuid.Nil)
	d := createMany(a, "db")
	one := a.MustCreateOnShare("one")
	for name, try := range map[string]struct {
		by   *controltest.Agent
		d    dataset.Dataset
		id   uuid.UUID
		kind *dataset.Kind
		says string
	}{
		"one host at a time": {b, one, uuid.New(), dataset.ErrUnsupported, "access: many"},
		"another share":      {other, d, uuid.New(), dataset.ErrUnsupported, "node gamma has no pool on the share"},
		"no share":           {off, d, uuid.New(), dataset.ErrUnsupported, "node delta has no pool on the share"},
		"no such dataset":    {b, dataset.Dataset{ID: uuid.New()}, uuid.New(), dataset.ErrNotFound, "no such dataset"},
		"missing ID":         {b, d, uuid.Nil, dataset.ErrInvalid, "missing ID"},
	} {
		_, err := stay(try.by, try.d, try.id)
		if err == nil {
			t.Errorf("%s: let in", name)
			continue
		}
		controltest.Refused(t, err, try.kind, try.says)
	}
	stale := *b
	stale.Incarnation = uuid.New()
	_, err := stay(&stale, d, uuid.New())
	controltest.Refused(t, err, dataset.ErrStale)
	op := *e.MustSubmit(controltest.Move("db", "beta")).Operation
	_, err = stay(b, d, uuid.New())
	controltest.Refused(t, err, dataset.ErrPending, "is being moved", op.ID.String()[:8])
	e.OK(e.CancelOperation(e.Ctx, op.ID.String()))
	leaves(b, d, stays(b, d))
	a.MustDelete("db")
	_, err = stay(b, d, uuid.New())
	controltest.Refused(t, err, dataset.ErrNotFound, "was deleted")
	if got := e.CheckInvariants().Datasets[d.ID].SharedMounts; len(got) != 0 {
		t.Errorf("on record: %v", got)
	}
}

// A request that needs the volume unused is refused while the volume has guests, and the error names them. This holds
// also if a guest was recorded after the request was planned.
func TestGuestsAreInTheWay(t *testing.T) {
	e := controltest.New(t)
	share := uuid.New()
	a, b := e.NewAgentOnShare("alpha", share), e.NewAgentOnShare("beta", share)
	d := createMany(a, "db")
	rm := api.Request{Kind: dataset.OpDelete, Volume: "db"}
	planned := a.MustPlan(rm)
	id := stays(b, d)
	two := api.Heartbeat{Incarnation: b.Incarnation, Datasets: []dataset.DatasetStatus{{ID: d.ID, Mounted: true, Mounts: []dataset.Mount{{ID: "x", Count: 1}, {ID: "y", Count: 1}}}}}
	e.OK(e.Heartbeat(e.Ctx, b.ID, two))
	controltest.Refused(t, a.TryCommit(planned), dataset.ErrInUse, "cannot delete volume db", "in use on beta (2 mounts)")
	a.MustRefusePlan(rm, dataset.ErrInUse, "beta (2 mounts)")
	for _, req := range []api.Request{controltest.Move("db", "beta"), rm, {Kind: dataset.OpUpdate, Volume: "db", Profile: "bronze"}} {
		controltest.Refused(t, a.TrySubmit(req), dataset.ErrInUse, "volume db", "beta (2 mounts)")
	}
	_, err := stay(a, d, uuid.New())
	controltest.Refused(t, err, dataset.ErrInUse, "beta (2 mounts)")
	if v := e.MustVolume("db"); len(v.SharedMountDetails) != 1 || v.SharedMountDetails[0].NodeName != "beta" || v.SharedMountDetails[0].MountCount != 2 || v.SharedMountDetails[0].Exclusive {
		t.Errorf("people see %+v", v.SharedMountDetails)
	}
	_, err = e.RemoveNode(e.Ctx, "beta", api.NodeRemoval{})
	controltest.Refused(t, err, dataset.ErrInUse, "node beta uses db")
	leaves(b, d, id)
	a.MustDo(rm)
	e.CheckInvariants()
}

// A home with exclusive use of its dataset admits no guest, and does not get exclusive use while there is a guest.
func TestAloneAtHome(t *testing.T) {
	e := controltest.New(t)
	share := uuid.New()
	a, b := e.NewAgentOnShare("alpha", share), e.NewAgentOnShare("beta", share)
	d := createMany(a, "db")
	id := stays(a, d)
	_, err := stay(b, d, uuid.New())
	controltest.Refused(t, err, dataset.ErrPending, "node alpha has exclusive use of it")
	if v := e.MustVolume("db"); len(v.SharedMountDetails) != 1 || !v.SharedMountDetails[0].Exclusive {
		t.Errorf("people see %+v", v.SharedMountDetails)
	}
	a.MustSnapshot("db", "at-rest") // exclusive use is needed for this
	again := stays(a, d)            // the agent was restarted meanwhile
	leaves(a, d, id)
	if _, err := stay(b, d, uuid.New()); dataset.KindOf(err) != dataset.ErrPending {
		t.Errorf("an earlier stay ended it: %v", err)
	}
	leaves(a, d, again)
	stays(b, d)
	if got := guests(e, "db"); !slices.Equal(got, []uuid.UUID{b.ID}) {
		t.Errorf("on record: %v", got)
	}
}

// A mount that already exists is recorded as it is, even if it would not be admitted.
func TestGuestsThatAreThereAlready(t *testing.T) {
	e := controltest.New(t)
	share := uuid.New()
	a, b := e.NewAgentOnShare("alpha", share), e.NewAgentOnShare("beta", share)
	d := createMany(a, "db")
	op := *e.MustSubmit(controltest.Move("db", "beta")).Operation
	c := e.NewAgentOnShare("gamma", share)
	c.OK(c.ReportSharedMount(e.Ctx, c.ID, api.SharedMountReport{Incarnation: c.Incarnation, Dataset: d.ID, ID: uuid.New(), Mounted: true}))
	if got := guests(e, "db"); !slices.Equal(got, []uuid.UUID{c.ID}) {
		t.Errorf("on record: %v", got)
	}
	b.MustRecall(op)
	op.Manifest = &dataset.Manifest{Taken: controltest.Start}
	a.OK(a.TryYield(op, op.Manifest))
	got := *b.MustCommit(op).Dataset // within the share, where its mounts continue
	if g, stays := got.SharedMountOf(c.ID); !stays || got.Home != b.ID {
		t.Errorf("%+v, %+v", got, g)
	}
	e.CheckInvariants()
}

// Without its home, a volume continues at a guest, which does not need a stay any more. The other guests continue,
// and the superseded home is a guest until it reports what it has mounted.
func TestGuestsWithoutTheHome(t *testing.T) {
	e := controltest.New(t)
	share := uuid.New()
	a, b, c := e.NewAgentOnShare("alpha", share), e.NewAgentOnShare("beta", share), e.NewAgentOnShare("gamma", share)
	d := createMany(a, "db")
	stays(b, d)
	stays(c, d)
	got := *b.MustCommit(*e.MustSubmit(controltest.ForcedMove("db", "beta", "alpha")).Operation).Dataset
	if got.Home != b.ID {
		t.Fatalf("%+v", got)
	}
	if on := guests(e, "db"); !slices.Equal(on, []uuid.UUID{c.ID, a.ID}) {
		t.Errorf("on record: %v", on)
	}
	s := a.MustSync(0)
	if len(s.SharedMounts) != 1 || len(s.Datasets) != 0 {
		t.Fatalf("the superseded home gets %+v", s)
	}
	stay, _ := s.SharedMounts[0].SharedMountOf(a.ID)
	leaves(a, d, stay.ID)
	if on := guests(e, "db"); !slices.Equal(on, []uuid.UUID{c.ID}) {
		t.Errorf("on record: %v", on)
	}
	one := a.MustCreateOnShare("one")
	if got := *b.MustCommit(*e.MustSubmit(controltest.ForcedMove("one", "beta", "alpha")).Operation).Dataset; got.ID != one.ID || len(got.SharedMounts) != 0 {
		t.Errorf("of one host at a time: %+v", got)
	}
}

// A lost guest blocks such requests until a person confirms that it does not write any more, or it is reachable
// again. It is removed with its node after that, not before.
func TestLostGuest(t *testing.T) {
	x := controltest.NewReplicas(t, 1)
	e := x.On(x.Services[0])
	share := uuid.New()
	l := &controltest.LostHome{Control: e, Replicas: x, Alpha: e.NewAgentOnShare("alpha", share), Beta: e.NewAgentOnShare("beta", share)}
	c := e.NewAgentOnShare("gamma", share)
	d := createMany(l.Alpha, "db")
	stays(l.Beta, d)
	stays(c, d)
	x.EndSession(l.Beta)
	rm := api.Request{Kind: dataset.OpDelete, Volume: "db"}
	l.Alpha.MustRefusePlan(rm, dataset.ErrInUse, "beta (unreachable", "drover node fence beta", "gamma (0 mounts)")
	e.OK(e.Fence(e.Ctx, l.Beta.ID, api.Fenced{Confirmed: true}))
	_, err := l.Alpha.Plan(e.Ctx, l.Alpha.ID, rm)
	controltest.Refused(t, err, dataset.ErrInUse, "in use on gamma (0 mounts)")
	x.EndSession(c)
	_, err = e.RemoveNode(e.Ctx, "gamma", api.NodeRemoval{})
	controltest.Refused(t, err, dataset.ErrInUse, "node gamma uses db", "drover node fence gamma")
	// Its certificate alone is removed only by force, because the node may still write to what it has mounted.
	if out, err := e.RemoveNode(e.Ctx, "gamma", api.NodeRemoval{Force: true}); err != nil || out.Removed.IsZero() {
		t.Fatal(out, err)
	}
	l.Alpha.MustRefusePlan(rm, dataset.ErrInUse, "in use on gamma (unreachable", "drover node fence gamma")
	_, err = stay(l.Alpha, d, uuid.New())
	controltest.Refused(t, err, dataset.ErrInUse, "in use on gamma")
	e.OK(e.Fence(e.Ctx, c.ID, api.Fenced{Confirmed: true}))
	e.OK(e.RemoveNode(e.Ctx, "gamma", api.NodeRemoval{}))
	_, err = e.RemoveNode(e.Ctx, "gamma", api.NodeRemoval{})
	controltest.Refused(t, err, dataset.ErrInvalid, "unknown node")
	if v := e.MustVolume("db"); len(v.SharedMountDetails) != 1 || !v.SharedMountDetails[0].Fenced || !v.SharedMountDetails[0].Unreachable {
		t.Errorf("people see %+v", v.SharedMountDetails)
	}
	l.RestartAgent(l.Beta, "beta") // the confirmation is void
	list, _ := e.EventLog.After(0)
	back := slices.IndexFunc(list, func(ev api.Event) bool {
		return strings.Contains(ev.Detail, "confirmed that it writes no more: its mounted")
	})
	if back < 0 || list[back].Type != "node.live" || list[back].Node != "beta" {
		t.Errorf("its return is reported as %+v", list)
	}
	l.Alpha.MustRefusePlan(rm, dataset.ErrInUse, "beta")
	x.EndSession(l.Beta)
	e.OK(e.Fence(e.Ctx, l.Beta.ID, api.Fenced{Confirmed: true}))
	l.Alpha.MustDo(rm)
	l.RestartAgent(l.Beta, "beta")
	if s := l.Beta.MustSync(0); len(s.SharedMounts) != 0 {
		t.Errorf("the node gets %+v", s)
	}
	_, err = stay(l.Beta, d, uuid.New())
	controltest.Refused(t, err, dataset.ErrNotFound)
}

// A profile with access many can be used only on a share, and the refusal says why. A volume keeps its home when
// another node mounts it.
func TestAccessManyWantsAShare(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgentOnShare("alpha", uuid.New())
	createMany(a, "first")
	a.MustRefusePlan(controltest.Create("db@many", "pool=fast"), dataset.ErrUnsupported, "it cannot mount a volume on several hosts")
	if d := a.MustCreate("db@many"); d.Pool != a.LocalPools[1].ID {
		t.Errorf("it lies on pool %s", d.Pool)
	}
	a.MustCreate("one@bronze", "pool=fast")
	e.MustRefuse(api.Request{Kind: dataset.OpUpdate, Volume: "one", Profile: "many"}, dataset.ErrUnsupported, "it cannot mount a volume on several hosts")
}

// A volume does not move away from its share while a guest has it mounted, also one that came since the move was
// asked for.
func TestGuestsOfAVolumeThatLeavesItsShare(t *testing.T) {
	e := controltest.New(t)
	share := uuid.New()
	a, b, c := e.NewAgentOnShare("alpha", share), e.NewAgentOnShare("beta", uuid.New()), e.NewAgentOnShare("gamma", share)
	d := createMany(a, "db")
	op := *e.MustSubmit(controltest.Move("db", "beta")).Operation
	if op.SameShare {
		t.Fatal("both are on one share")
	}
	b.MustRecall(op)
	op.Manifest = controltest.Relinquished(op)
	a.OK(a.TryYield(op, op.Manifest))
	id := uuid.New()
	held := api.SharedMountReport{Incarnation: c.Incarnation, Dataset: d.ID, ID: id, Mounted: true}
	c.OK(c.ReportSharedMount(e.Ctx, c.ID, held))
	controltest.Refused(t, b.TryCommit(op), dataset.ErrInUse, "cannot move volume db", "gamma")
	leaves(c, d, id)
	if got := *b.MustCommit(op).Dataset; got.Home != b.ID {
		t.Errorf("%+v", got)
	}
	e.CheckInvariants()
}
