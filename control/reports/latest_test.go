package reports_test

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// TestPoolEventsHaveMargin: a pool whose use varies around a threshold causes one event, and another one only after its
// use has fallen clearly.
func TestPoolEventsHaveMargin(t *testing.T) {
	pool := uuid.New()
	node := dataset.Node{ID: uuid.New(), Name: "alpha", Pools: []uuid.UUID{pool}}
	s := reports.New()
	for i, c := range []struct {
		used    int // in percent; below 0: offline, without a size
		want    []api.EventType
		comment string
	}{
		{80, nil, "enough space"},
		{85, []api.EventType{api.EventPoolFull}, "nearly full"},
		{84, nil, "below the threshold, within the margin"},
		{85, nil, "again at the threshold"},
		{83, nil, "within the margin"},
		{-1, []api.EventType{api.EventPoolOffline}, "offline"},
		{84, []api.EventType{api.EventPoolOnline}, "online again, within the margin"},
		{86, nil, "it was nearly full before"},
		{82, nil, "clearly below the threshold"},
		{85, []api.EventType{api.EventPoolFull}, "nearly full again"},
	} {
		st := dataset.PoolStatus{ID: pool, Online: true, Size: 100 * dataset.GiB, Free: dataset.Size(100-c.used) * dataset.GiB}
		if c.used < 0 {
			st = dataset.PoolStatus{ID: pool, Reason: "its disk is gone"}
		}
		out, err := s.RecordHeartbeat(node, api.Heartbeat{Pools: []dataset.PoolStatus{st}}, 0)
		require.NoError(t, err)
		var got []api.EventType
		for _, ev := range out.Events {
			got = append(got, ev.Type)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("report %d, %s: events %v, want %v", i, c.comment, got, c.want)
		}
	}
}

// TestFullnessAtTheLimit: if as many full datasets are remembered as possible, those that have space again are
// forgotten nevertheless, and make room for others.
func TestFullnessAtTheLimit(t *testing.T) {
	id := func(n int) (id uuid.UUID) {
		binary.BigEndian.PutUint32(id[:], uint32(n)+1)
		return id
	}
	status := func(n int, is dataset.Fullness) dataset.DatasetStatus {
		return dataset.DatasetStatus{ID: id(n), Usage: &dataset.Usage{}, Fullness: is}
	}
	s := reports.New()
	report := func(node string, list ...dataset.DatasetStatus) []dataset.DatasetStatus {
		t.Helper()
		out, err := s.RecordHeartbeat(dataset.Node{ID: uuid.NewSHA1(uuid.Nil, []byte(node))}, api.Heartbeat{Datasets: list}, 0)
		require.NoError(t, err)
		return out.Fullness
	}
	var all []dataset.DatasetStatus
	for n := range reports.MaxRemembered {
		all = append(all, status(n, dataset.Full))
	}
	if got := report("alpha", all...); len(got) != len(all) {
		t.Fatalf("%d changes, want %d", len(got), len(all))
	}
	const extra = reports.MaxRemembered
	if got := report("beta", status(extra, dataset.Full)); len(got) != 0 {
		t.Errorf("one more than the limit: %+v, want no change", got)
	}
	if got := report("gamma", status(1, dataset.NearlyFull)); len(got) != 1 {
		t.Errorf("one changes at the limit: %+v, want it reported", got)
	}
	if got := report("gamma", status(0, dataset.NotFull)); len(got) != 1 || got[0].ID != id(0) {
		t.Errorf("one has space again: %+v, want it reported", got)
	}
	if got := report("beta", status(extra, dataset.Full)); len(got) != 1 {
		t.Errorf("after it made room: %+v, want the other reported", got)
	}
}

// TestReportsOfRemovedNodes: the reports of a removed node are forgotten, except those about a pool that another node
// has reported since. A node that has reported after the list was read is kept.
func TestReportsOfRemovedNodes(t *testing.T) {
	own, moved := uuid.New(), uuid.New()
	gone := dataset.Node{ID: uuid.New(), Name: "alpha", Pools: []uuid.UUID{own, moved}}
	stays := dataset.Node{ID: uuid.New(), Name: "beta", Pools: []uuid.UUID{moved}}
	s, id := reports.New(), uuid.New()
	report := func(n dataset.Node, now time.Duration) {
		t.Helper()
		h := api.Heartbeat{StoreDoubt: "an older epoch", Datasets: []dataset.DatasetStatus{{ID: id}}}
		for _, p := range n.Pools {
			h.Pools = append(h.Pools, dataset.PoolStatus{ID: p, Online: true})
		}
		_, err := s.RecordHeartbeat(n, h, now)
		require.NoError(t, err)
	}
	report(gone, 1)
	report(stays, 2)
	s.RetainNodes([]uuid.UUID{stays.ID}, 1)
	if !s.Heartbeat(gone.ID).Heard {
		t.Error("a node that reported while the list was read was forgotten")
	}
	s.RetainNodes([]uuid.UUID{stays.ID}, 3)
	if s.Heartbeat(gone.ID).Heard || s.Pool(own) != nil || s.Dataset(id, gone.ID) != nil {
		t.Error("reports of the removed node are kept")
	}
	if !s.Heartbeat(stays.ID).Heard || s.Pool(moved) == nil || s.Dataset(id, stays.ID) == nil {
		t.Error("reports of the other node were forgotten")
	}
	s.ForgetNode(stays.ID)
	if s.Heartbeat(stays.ID).Heard || s.Pool(moved) != nil || s.CheckTrust() != nil {
		t.Error("reports of the second node are kept")
	}
}

// TestProblemKeepsStateOfCopy: a node that has just started reports why it cannot refresh its copy, and not the state of
// the copy. A failover may still use the state that was reported before.
func TestProblemKeepsStateOfCopy(t *testing.T) {
	s := reports.New()
	node := dataset.Node{ID: uuid.New(), Name: "alpha"}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	state := dataset.Copy{
		Dataset: uuid.New(), Node: node.ID, Kind: dataset.CopyReplica, Epoch: 7, Snapshot: uuid.New(),
		Taken: at, OrderTime: at.Add(1), VerifiedAt: at.Add(2), VerifiedAtHome: at.Add(3),
	}
	s.RecordCopy(state, 0)
	empty := dataset.Copy{Dataset: state.Dataset, Node: node.ID, Kind: dataset.CopyReplica}
	later := state
	later.Epoch, later.Snapshot, later.Taken = 8, uuid.New(), at.Add(time.Hour)
	for _, c := range []struct{ report, want dataset.Copy }{{empty, state}, {later, later}, {empty, later}} {
		c.report.Problem, c.want.Problem = "its pool is offline", "its pool is offline"
		_, err := s.RecordHeartbeat(node, api.Heartbeat{Copies: []dataset.Copy{c.report}}, 0)
		require.NoError(t, err)
		if got, _ := s.Copy(node.ID, state.Dataset); got != c.want {
			t.Errorf("after the report %+v:\n%+v, want\n%+v", c.report, got, c.want)
		}
	}
}

// What a node reports of itself is bounded. Anything above a bound is refused, and the error has the bound.
func TestHeartbeatsAreBounded(t *testing.T) {
	e, a := controltest.OneNode(t)
	long := strings.Repeat("x", dataset.MaxLine+1)
	for want, h := range map[string]api.Heartbeat{
		"257 pools (256 at most)":                                         {Pools: make([]dataset.PoolStatus, 200), FailedPools: make([]api.Pool, 57)},
		"20001 datasets (20000 at most)":                                  {Datasets: make([]dataset.DatasetStatus, 20_001)},
		"20001 copies (20000 at most)":                                    {Copies: make([]dataset.Copy, 20_001)},
		"the problem of its copy of dataset 0":                            {Copies: []dataset.Copy{{Problem: long}}},
		"20001 operations (20000 at most)":                                {Operations: make([]dataset.Operation, 20_001)},
		"the reason why it does not trust the store takes 4097":           {StoreDoubt: long},
		"the reason for the state of pool " + a.LocalPools[0].ID.String(): {Pools: []dataset.PoolStatus{{ID: a.LocalPools[0].ID, Reason: long}}},
		"the reason for the state of pool  takes 4097":                    {FailedPools: []api.Pool{{Status: &dataset.PoolStatus{Reason: long}}}},
		"the path of dataset ":                                            {Datasets: []dataset.DatasetStatus{{MountPath: long}}},
		"the problem of dataset ":                                         {Datasets: []dataset.DatasetStatus{{Problem: long}}},
		"10001 mount IDs of dataset ":                                     {Datasets: []dataset.DatasetStatus{{Mounts: make([]dataset.Mount, 10_001)}}},
		"a mount ID of 257 bytes (256 at most)":                           {Datasets: []dataset.DatasetStatus{{Mounts: []dataset.Mount{{ID: strings.Repeat("a", 257)}}}}},
		"101 names of dataset ":                                           {Datasets: []dataset.DatasetStatus{{Mounts: []dataset.Mount{{Names: make([]string, 101)}}}}},
		"101 names of dataset 0":                                          {Datasets: []dataset.DatasetStatus{{EngineAliases: make([]string, 101)}}},
		"a name of dataset ":                                              {Datasets: []dataset.DatasetStatus{{EngineAliases: []string{long}}}},
	} {
		h.Incarnation = a.Incarnation
		before := e.Dump()
		controltest.Refused(t, e.Heartbeat(e.Ctx, a.ID, h), dataset.ErrInvalid, "alpha", want)
		if diff := cmp.Diff(before, e.Dump()); diff != "" {
			t.Error(diff)
		}
	}
}

// What is remembered of a node is bounded, however many heartbeats it sends, and is only what that node reported: no
// node can displace what another one reports.
func TestSeenIsBounded(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	d := a.MustCreate("db")
	say := func(of *controltest.Agent, whole bool, list ...dataset.DatasetStatus) error {
		return e.Heartbeat(e.Ctx, of.ID, api.Heartbeat{Incarnation: of.Incarnation, Datasets: list, Incremental: whole})
	}
	is := dataset.DatasetStatus{ID: d.ID, Mounted: true}
	a.OK(say(a, true, is))
	b.OK(say(b, true, dataset.DatasetStatus{ID: d.ID, Problem: "lies"}))
	if v := e.MustVolume("db"); v.Status == nil || !v.Status.Mounted {
		t.Errorf("%+v", v.Status)
	}
	fill := func(whole bool) (err error) {
		for n := 0; n <= reports.MaxRemembered && err == nil; n += reports.MaxReported {
			list := make([]dataset.DatasetStatus, reports.MaxReported)
			for i := range list {
				list[i].ID = uuid.New()
			}
			err = say(b, whole, list...)
		}
		return err
	}
	controltest.Refused(t, fill(true), dataset.ErrConflict, "beta", "datasets to remember (200000 at most): a full report is needed")
	controltest.Refused(t, fill(false), dataset.ErrInvalid, "beta", "datasets to remember (200000 at most)")
	assert.NoErrorf(t, say(a, true, is), "others are refused as well")
	// Reports about datasets that are not on record are forgotten when somebody reads the reports.
	b.OK(say(b, true, dataset.DatasetStatus{ID: uuid.New()}))
	if seen, err := e.SeenVolumes(e.Ctx); err != nil || len(seen) != 1 || len(e.Reports.Datasets()) != 1 {
		t.Errorf("%d seen, %v, %d remembered", len(seen), err, len(e.Reports.Datasets()))
	}
}

// cutsOff makes the profile auto fence the last home by a command.
func cutsOff(p *controltest.ProfileSet, args ...string) {
	auto := p.ByName["auto"]
	auto.Failover.Fence = dataset.Fence{Kind: dataset.FenceExec, Exec: args, Timeout: dataset.DefaultFenceTimeout}
	p.ByName["auto"] = auto
}

// mounts sets the mount options of all profiles.
func mounts(p *controltest.ProfileSet, options ...string) {
	for name, is := range p.ByName {
		is.Filesystem.Mount = options
		p.ByName[name] = is
	}
}

// hostile is a profile with a command that only the reporting node has.
func hostile(p dataset.Profile) dataset.Profile {
	p = p.Clone()
	p.Replicas.Count = 1
	p.Failover = dataset.Failover{Auto: true, MaxLoss: dataset.Duration(10_000 * time.Hour)}
	p.Failover.Fence = dataset.Fence{Kind: dataset.FenceExec, Exec: []string{"/bin/sh", "-c", "evil"}, Timeout: dataset.DefaultFenceTimeout}
	return p
}

// A fence command runs as root on another node than the one that reports it, and mount options apply on each node to
// which the volume goes. So only those that come from control's profiles, or that are already on record, are
// recorded.
func TestForeignProfilesOfReports(t *testing.T) {
	for what, change := range map[string]func(p *dataset.Profile){
		"a fence command": func(p *dataset.Profile) { *p = hostile(*p) },
		"mount options":   func(p *dataset.Profile) { p.Filesystem.Mount = []string{"nosuid", "dev"} },
		"mount options ":  func(p *dataset.Profile) { p.Filesystem.Mount = nil }, // it leaves nosuid out
	} {
		t.Run(what, func(t *testing.T) { testForeign(t, strings.TrimSpace(what), change) })
	}
}

func testForeign(t *testing.T, what string, change func(p *dataset.Profile)) {
	m := controltest.NewRestoredStore(t, "alpha", "beta")
	controltest.AddAutoFailover(m.Profiles, 1)
	cutsOff(m.Profiles, "/sbin/off", "-f")
	mounts(m.Profiles, "nosuid")
	a := m.Agents["alpha"]
	a.ReportGuard()
	m.Agents["beta"].ReportGuard()
	a.MustCreate("db@auto")
	snap := a.MustSnapshot("db", "")
	for name, req := range map[string]api.Request{
		"create":                  controltest.Create("new@gold"),
		"create of that profile":  controltest.Create("new@auto"),
		"clone":                   controltest.Create("copy", "from=db"),
		"snapshot":                {Kind: dataset.OpSnapshot, Volume: "db"},
		"restore":                 {Kind: dataset.OpRestore, Volume: "db", Snapshot: snap.ID.String()},
		"resize":                  {Kind: dataset.OpResize, Volume: "db", Size: "30GiB"},
		"resize for a profile":    {Kind: dataset.OpResize, Volume: "db", Size: "30GiB", Options: map[string]string{"profile": "auto"}},
		"resize for no profile's": {Kind: dataset.OpResize, Volume: "db", Size: "30GiB", Options: map[string]string{"profile": "gone"}},
	} {
		op := a.MustPlan(req)
		op.Options = req.Options
		if op.DatasetRecord != nil {
			change(&op.DatasetRecord.Profile)
		}
		if op.Snapshot != nil {
			change(&op.Snapshot.Profile)
		}
		if name == "resize for no profile's" {
			op.DatasetRecord.Profile.Name = "gone"
		}
		before := m.Dump()
		controltest.Refused(t, a.Record(a.Ctx, a.ID, a.ReportOf(op)), dataset.ErrForbidden, op.ID.String(), what)
		controltest.Refused(t, a.TryCommit(op), dataset.ErrForbidden, op.ID.String(), what)
		if diff := cmp.Diff(before, m.Dump()); diff != "" {
			t.Error(name, diff)
		}
	}
	// A command that was control's when the volume was planned, recorded or made is recorded.
	clone, again := a.MustPlan(controltest.Create("copy", "from=db")), a.MustPlan(controltest.Create("late@auto"))
	a.OK(a.Record(a.Ctx, a.ID, a.ReportOf(again)))
	cutsOff(m.Profiles, "/sbin/other")
	mounts(m.Profiles, "noatime")
	a.MustCommit(clone)
	a.MustCommit(again)
	for _, name := range []string{"copy", "late"} {
		p := m.MustVolume(name).Profile
		if got := p.Failover.Fence.Exec; len(got) != 2 || got[0] != "/sbin/off" || !slices.Equal(p.Filesystem.Mount, []string{"nosuid"}) {
			t.Errorf("%s: %q, %q", name, got, p.Filesystem.Mount)
		}
	}
	// A snapshot may have the command that its volume once had.
	m.OK(m.Ledger.Update(a.Ctx, func(x *record.Tx) error {
		d, err := x.Dataset(snap.Dataset)
		d.Profile = m.Profiles.ByName["auto"]
		return errors.Join(err, x.Put(record.DatasetKey(d.ID), d))
	}))
	a.MustCommit(a.MustPlan(api.Request{Kind: dataset.OpSnapshotDelete, Volume: "db", Snapshot: snap.ID.String()}))
}

// What is stored next to the data may come from the node as well. A rebuild and a recovery record the command from
// profiles.yaml; without one there, none is recorded and nothing takes over automatically. Of the mount options they
// record those in profiles.yaml, and those that only forbid something.
func TestForeignProfilesOfWhatIsFound(t *testing.T) {
	m := controltest.NewRestoredStore(t, "alpha", "beta")
	controltest.AddAutoFailover(m.Profiles, 1)
	cutsOff(m.Profiles, "/sbin/off")
	mounts(m.Profiles, "noatime", "nosuid")
	a := m.Agents["alpha"]
	a.ReportGuard()
	m.Agents["beta"].ReportGuard()
	m.Saved = m.Save()
	a.MustCreate("db@auto")
	a.MustSnapshot("db", "")
	m.NoteHoldings()
	h := m.Holdings["alpha"]
	is := func(how, volume, mount string, want ...string) {
		t.Helper()
		v := m.MustVolume(volume)
		list, err := m.Snapshots(a.Ctx, volume, api.Page{})
		if err != nil || len(list.Items) != 1 {
			t.Fatal(how, list, err)
		}
		for _, p := range []dataset.Profile{v.Profile, list.Items[0].Profile} {
			if f := p.Failover.Fence; !p.Failover.Auto || f.Kind != dataset.FenceExec || !slices.Equal(f.Exec, want) {
				t.Errorf("%s: %s has the fence %+v, want %q", how, volume, f, want)
			}
			if got := strings.Join(p.Filesystem.Mount, " "); got != mount {
				t.Errorf("%s: %s is mounted with %q, want %q", how, volume, got, mount)
			}
		}
	}
	found := func(name, profile string) api.FoundDataset {
		f := h.Datasets[0]
		f.Dataset.ID, f.Dataset.Volume = uuid.New(), name
		f.Dataset.Profile = hostile(f.Dataset.Profile)
		f.Dataset.Profile.Name, f.Dataset.Profile.Filesystem.Mount = profile, []string{"noatime", "dev", "noexec"}
		s := f.Snapshots[0]
		s.ID, s.Dataset, s.Name, s.Profile = uuid.New(), f.Dataset.ID, "", f.Dataset.Profile
		f.Snapshots = []dataset.Snapshot{s}
		return f
	}
	a.MustRebuild(found("known", "auto"), found("unknown", "gone"))
	is("rebuild", "known", "noatime noexec", "/sbin/off")
	is("rebuild", "unknown", "noexec")

	h.Datasets = []api.FoundDataset{found("known", "auto"), found("unknown", "gone")}
	m.RestoreStore(m.Saved)
	m.OK(m.Services[0].Ledger.HaltRestored(a.Ctx, controltest.SeenIndex))
	m.Holdings["alpha"] = h
	m.MustRecover("alpha", "beta")
	is("recovery", "known", "noatime noexec", "/sbin/off")
	is("recovery", "unknown", "noexec")
}

// A volume whose fence command is unknown does not fail over automatically until the command is known.
func TestFailoverWithoutItsCommand(t *testing.T) {
	l := controltest.NewLostHome(t, 1)
	l.OK(l.Ledger.Update(l.Ctx, func(x *record.Tx) error {
		d, err := x.Dataset(l.Dataset.ID)
		d.Profile.Failover.Fence = dataset.Fence{Kind: dataset.FenceExec}
		return errors.Join(err, x.Put(record.DatasetKey(d.ID), d))
	}))
	l.Replicas.EndSession(l.Alpha)
	_, err := l.AskFailover(l.Service, "beta")
	controltest.Refused(t, err, dataset.ErrPending)
	l.Wait(l.Timing.Session, l.Beta, l.Gamma)
	_, err = l.AskFailover(l.Service, "beta")
	controltest.Refused(t, err, dataset.ErrOffline, "profiles.yaml has no fence command for profile auto", "--force --fenced alpha")
	cutsOff(l.Replicas.Profiles, "/sbin/off")
	op, err := l.AskFailover(l.Service, "beta")
	if err != nil || op == nil || !slices.Equal(op.DatasetRecord.Profile.Failover.Fence.Exec, []string{"/sbin/off"}) {
		t.Fatalf("%+v, %v", op, err)
	}
	l.Beta.MustCommit(*op)
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
