package view_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// A volume has the problem of its pool at once: its home examines volumes that nobody uses only from time to time.
func TestVolumeOfAnOfflinePoolHasAProblem(t *testing.T) {
	e, a := controltest.OneNode(t)
	seen := a.MustCreate("db")
	e.Reports.ForgetDatasetOf(a.ID, a.MustCreate("other").ID)
	report := func(pool dataset.PoolStatus, volumes ...dataset.DatasetStatus) {
		pool.ID = seen.Pool
		h := api.Heartbeat{
			Incarnation: a.Incarnation, Incremental: true, Pools: []dataset.PoolStatus{pool}, Datasets: volumes,
		}
		a.OK(a.Heartbeat(e.Ctx, a.ID, h))
	}
	problems := func() (all []string) {
		list, err := e.Volumes(e.Ctx, api.Page{})
		require.NoError(t, err)
		for _, v := range list.Items {
			problem := "not reported"
			if v.Status != nil {
				problem = v.Status.Problem
			}
			all = append(all, problem)
		}
		return all
	}
	want := func(when string, db, other string) {
		if got := problems(); got[0] != db || got[1] != other {
			t.Errorf("%s: %q", when, got)
		}
	}
	report(dataset.PoolStatus{Online: true}, dataset.DatasetStatus{ID: seen.ID, Mounted: true})
	want("at first", "", "not reported")
	report(dataset.PoolStatus{Reason: "its path is no mount point"})
	offline := "pool fast is offline: its path is no mount point"
	want("while the pool is offline", offline, offline)
	if v, err := e.Volume(e.Ctx, "db"); err != nil || v.Status == nil || !v.Status.Mounted || v.Status.Problem != offline {
		t.Errorf("%+v, %v", v.Status, err)
	}
	reported, err := e.SeenVolumes(e.Ctx)
	require.NoError(t, err)
	for _, v := range reported {
		if v.Status == nil || v.Status.Problem == "" {
			t.Errorf("in the metrics: %+v", v.Status)
		}
	}
	report(dataset.PoolStatus{Quarantined: true, Reason: "its disk is older"})
	want("while the pool is quarantined", "", "not reported")
	report(dataset.PoolStatus{Online: true})
	want("when the pool is online again", "", "not reported")
	lost := dataset.LostWrites + "and not synced"
	report(dataset.PoolStatus{Online: true}, dataset.DatasetStatus{ID: seen.ID, Problem: lost})
	want("after lost writes", lost, "not reported")
	report(dataset.PoolStatus{Reason: "its path is no mount point"})
	want("while the pool with lost writes is offline", offline, offline)
}

// A node reads a volume before it mounts it. A damaged record of a snapshot, which only tells when the next one is due,
// does not keep it from that.
func TestVolumeWithDamagedSnapshotRecord(t *testing.T) {
	e := controltest.New(t)
	d := e.NewAgent("alpha").MustCreate("db@gold")
	if v, err := e.Volume(e.Ctx, "db"); err != nil || v.NextSnapshot.IsZero() {
		t.Fatalf("next snapshot at %s, %v", v.NextSnapshot, err)
	}
	e.OK(e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
		return t.Put(record.SnapshotKey(d.ID, uuid.New()), record.Claim{ID: d.ID})
	}))
	if v, err := e.Volume(e.Ctx, "db"); err != nil || v.ID != d.ID || !v.NextSnapshot.IsZero() {
		t.Errorf("volume %s, next snapshot at %s, %v", v.ID, v.NextSnapshot, err)
	}
}

// A replica shows why its node cannot refresh it, until the node reports the replica without a problem.
func TestReplicaHasTheProblemThatItsNodeReports(t *testing.T) {
	e := controltest.New(t)
	e.AddReplicaProfile(1)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	d := a.MustCreate("db@safe")
	report := func(c dataset.Copy) {
		t.Helper()
		c.Dataset, c.Node, c.Kind = d.ID, b.ID, dataset.CopyReplica
		b.OK(b.Heartbeat(e.Ctx, b.ID, api.Heartbeat{Incarnation: b.Incarnation, Copies: []dataset.Copy{c}}))
	}
	wants := func(problem string, complete bool) {
		t.Helper()
		k := e.MustVolume("db").CopyDetails
		if len(k) != 1 || k[0].Problem != problem || (k[0].Snapshot != uuid.Nil) != complete {
			t.Errorf("copies are %+v, want one with the problem %q, complete: %t", k, problem, complete)
		}
	}
	wants("", false)
	report(dataset.Copy{Problem: "no route"})
	wants("no route", false)
	b.ReportCopyTaken(d, e.Clock.Now())
	wants("", true)
	report(dataset.Copy{Problem: "no space"}) // an agent that has restarted, and does not know its copy yet
	wants("no space", true)
	report(dataset.Copy{})
	wants("", true)
}

// A volume and the pools of a node are unreachable while the node has no session, or has not reported for 18 seconds.
func TestUnreachableHome(t *testing.T) {
	x := controltest.NewReplicas(t, 1)
	e := x.On(x.Services[0])
	a := e.NewAgent("alpha")
	b := e.NewAgent("beta")
	a.MustCreate("db")
	wants := func(when string, want bool) {
		t.Helper()
		list, err := e.VolumeSummaries(e.Ctx, api.Page{})
		require.NoError(t, err)
		if v := e.MustVolume("db"); v.Unreachable != want || len(list.Items) != 1 || list.Items[0].Unreachable != want {
			t.Errorf("%s: the volume is %+v, in a list %+v, want unreachable: %t", when, v, list.Items, want)
		}
		pools, err := e.Pools(e.Ctx)
		require.NoError(t, err)
		for _, p := range pools {
			if is := want && p.Node == a.ID; p.Unreachable != is {
				t.Errorf("%s: pool %s of %s is unreachable: %t, want %t", when, p.Name, p.NodeName, p.Unreachable, is)
			}
		}
	}
	renew := func(of *controltest.Agent) {
		t.Helper()
		e.OK(e.Members.Renew(e.Ctx, of.ID, of.Incarnation))
	}
	renew(a)
	renew(b)
	a.ReportOnline(true)
	wants("at first", false)
	st, last := dataset.Node{ID: a.ID, Name: "alpha"}, e.Clock.Steady()
	for _, silence := range []time.Duration{reports.MaxSilence, reports.MaxSilence + time.Second} {
		e.OK(e.Reports.RecordHeartbeat(st, api.Heartbeat{}, last-silence))
		wants("silent for "+silence.String(), silence > reports.MaxSilence)
	}
	a.ReportOnline(true)
	wants("after a report", false)
	x.EndSession(a)
	wants("without a session", true)
}

// The value of a session's key can be damaged. The key exists nevertheless, so the node is reachable, and the lists do
// not fail.
func TestDamagedSessionOfHome(t *testing.T) {
	x := controltest.NewReplicas(t, 1)
	e := x.On(x.Services[0])
	a := e.NewAgent("alpha")
	a.MustCreate("db")
	e.OK(e.Members.Renew(e.Ctx, a.ID, a.Incarnation))
	a.ReportOnline(true)
	damaged := store.Write{
		Key: record.LiveNodeKey(a.ID), Value: []byte("{"), Session: e.Members.Session(a.ID).Session,
	}
	e.OK(x.Store.Txn(e.Ctx, nil, []store.Write{damaged}))
	if list, err := e.VolumeSummaries(e.Ctx, api.Page{}); err != nil || len(list.Items) != 1 || list.Items[0].Unreachable {
		t.Errorf("got the summaries %+v, %v, want a reachable volume", list.Items, err)
	}
	if list, err := e.Volumes(e.Ctx, api.Page{}); err != nil || len(list.Items) != 1 || list.Items[0].Unreachable {
		t.Errorf("got the volumes %+v, %v, want a reachable one", list.Items, err)
	}
	if pools, err := e.Pools(e.Ctx); err != nil || len(pools) == 0 || pools[0].Unreachable {
		t.Errorf("got the pools %+v, %v, want reachable ones", pools, err)
	}
}

// The number of requests for a list does not depend on the number of nodes.
func TestListsOfManyNodesCostLittle(t *testing.T) {
	x := controltest.NewReplicas(t, 1)
	e := x.On(x.Services[0])
	for _, name := range []string{"alpha", "beta", "gamma", "delta", "epsilon"} {
		a := e.NewAgent(name)
		a.MustCreate("db-" + name)
		a.ReportOnline(true)
	}
	spy := controltest.NewSpyStore(e.Views.Ledger.Store)
	e.Views.Ledger.Store = spy
	for name, list := range map[string]func() (int, error){
		"volumes": func() (int, error) {
			l, err := e.Volumes(e.Ctx, api.Page{})
			return len(l.Items), err
		},
		"summaries": func() (int, error) {
			l, err := e.VolumeSummaries(e.Ctx, api.Page{})
			return len(l.Items), err
		},
		"pools": func() (int, error) {
			l, err := e.Pools(e.Ctx)
			return len(l), err
		},
	} {
		if _, err := list(); err != nil { // counts the snapshots of each volume
			t.Fatal(err)
		}
		spy.Counted()
		n, err := list()
		if reads, _, _ := spy.Counted(); err != nil || n < 5 || reads > 3 {
			t.Errorf("%s: %d items cost %d reads, want at most 3 (%v)", name, n, reads, err)
		}
	}
}

// forgeSnapshot takes a snapshot with a chosen UUID.
func forgeSnapshot(a *controltest.Agent, volume, name, id string) dataset.Snapshot {
	a.Helper()
	op := a.MustPlan(api.Request{Kind: dataset.OpSnapshot, Volume: volume, Name: name})
	op.Snapshot.ID = uuid.MustParse(id)
	a.MustCommit(op)
	return *op.Snapshot
}

// However much is in the trash, a dataset in it can be restored or purged by its name and by its UUID.
func TestManyInTheTrash(t *testing.T) {
	e, a := controltest.OneNode(t)
	var gone []dataset.Dataset
	for i := range 140 { // more than one transaction can check
		name := fmt.Sprintf("vol%d", i)
		a.MustCreate(name)
		gone = append(gone, a.MustDelete(name))
	}
	e.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: "vol7"})
	e.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: gone[8].ID.String()})
	e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: "vol9"})
	e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: gone[10].ID.String()})
	e.CheckInvariants()
}

func TestVolumeByNameOrPrefix(t *testing.T) {
	e, a := controltest.OneNode(t)
	one := a.CreateVolumeWithID("db", "abcd0000-0000-4000-8000-000000000001")
	two := a.CreateVolumeWithID("db2", "abcd0000-0000-4000-8000-000000000002")
	beef := a.CreateVolumeWithID("beef", "12340000-0000-4000-8000-000000000003") // a name that looks like a UUID prefix
	other := a.CreateVolumeWithID("other", "beef0000-0000-4000-8000-000000000004")
	forgeSnapshot(a, "db", "nightly", "abcd0000-0000-4000-8000-000000000005")
	for ref, want := range map[string]uuid.UUID{
		"db": one.ID, "beef": beef.ID, "beef0": other.ID, "BEEF0000": other.ID, "1234": beef.ID,
		one.ID.String(): one.ID, strings.ToUpper(two.ID.String()): two.ID, "12340000-": beef.ID,
	} {
		if v, err := e.Volume(e.Ctx, ref); err != nil || v.ID != want {
			t.Errorf("%s: %s, %v", ref, v.ID, err)
		}
	}
	_, err := e.Volume(e.Ctx, "abcd")
	controltest.Refused(t, err, dataset.ErrAmbiguous, one.ID.String(), "(db)", two.ID.String(), "(db2)")
	for _, ref := range []string{"", "x", "123", "bee", "nothing@gold", "db@", "abcd0000-0000-4000-8000-000000000005", "nightly", "../db", strings.Repeat("a", 1<<20), "\x00", "12340000-0000-4000-8000-0000000000031"} {
		_, err := e.Volume(e.Ctx, ref)
		controltest.Refused(t, err, dataset.ErrNotFound, "no such volume")
	}
	a.MustDelete("db")
	if v, err := e.Volume(e.Ctx, "abcd"); err != nil || v.ID != two.ID { // the other one is in the trash
		t.Errorf("%s, %v", v.ID, err)
	}
}

// Engines list a volume by the name with which it was requested, often with its profile.
func TestVolumeByNameAndProfile(t *testing.T) {
	e, a := controltest.OneNode(t)
	d := a.MustCreate("db@silver")
	c := a.MustCreate("copy@snapshot-" + d.ID.String()[:8])
	for ref, want := range map[string]uuid.UUID{"db@silver": d.ID, "copy@silver": c.ID, c.RequestedAs: c.ID} {
		if v, err := e.Volume(e.Ctx, ref); err != nil || v.ID != want {
			t.Errorf("%s: %s, %v", ref, v.ID, err)
		}
	}
	for ref, says := range map[string]string{
		"db@gold":                "volume db has profile silver, not gold (use db without @)",
		"db@snapshot-abcd":       "volume db has profile silver, not snapshot-abcd (use db without @)",
		"copy@snapshot-ffffffff": "volume copy has profile silver, not snapshot-ffffffff",
	} {
		_, err := e.Volume(e.Ctx, ref)
		controltest.Refused(t, err, dataset.ErrInvalid, says)
	}
	e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db@silver", Profile: "bronze"})
	if v := e.MustVolume("db@bronze"); v.ID != d.ID {
		t.Errorf("after set-profile: %+v", v)
	}
	e.MustRefuse(api.Request{Kind: dataset.OpDelete, Volume: "db@silver"}, dataset.ErrInvalid, "volume db has profile bronze, not silver")
}

func TestSnapshotByNameOrPrefix(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.CreateVolumeWithID("db", "abcd0000-0000-4000-8000-000000000001")
	a.MustCreate("db2")
	one := forgeSnapshot(a, "db", "nightly", "abcd0000-0000-4000-8000-000000000002")
	two := forgeSnapshot(a, "db2", "abcd", "abcd0000-0000-4000-8000-000000000003")
	three := forgeSnapshot(a, "db2", "", "fade0000-0000-4000-8000-000000000004")
	for _, c := range []struct {
		volume, snap string
		want         uuid.UUID
	}{
		{"db", "nightly", one.ID}, {"db", "abcd", one.ID}, {"db2", "abcd", two.ID}, {"db2", "abcd0000", two.ID},
		{"", "fade", three.ID}, {"", "FADE0000", three.ID}, {"", "db@nightly", one.ID}, {"", "db2@fade", three.ID}, {"", one.ID.String(), one.ID}, {"abcd0000-0000-4000-8000-000000000001", "nightly", one.ID},
	} {
		if s, err := e.Snapshot(e.Ctx, c.volume, c.snap); err != nil || s.ID != c.want {
			t.Errorf("%q %q: %s, %v", c.volume, c.snap, s.ID, err)
		}
	}
	_, err := e.Snapshot(e.Ctx, "", "abcd")
	controltest.Refused(t, err, dataset.ErrAmbiguous, one.ID.String(), two.ID.String())
	for _, c := range [][2]string{{"", "nightly"}, {"db", "weekly"}, {"db", "fade"}, {"nothing", "nightly"}, {"", ""}, {"db", ""}, {"", "abcd0000-0000-4000-8000-000000000001"}} {
		_, err := e.Snapshot(e.Ctx, c[0], c[1])
		controltest.Refused(t, err, dataset.ErrNotFound)
	}
	for _, c := range []struct{ snap, says string }{
		{"nightly", `no such snapshot: "nightly" (its name is known only in its volume: use --volume db)`},
		{"db@weekly", `no such snapshot: "weekly"`}, {"nothing@nightly", `no such snapshot: "nothing@nightly"`},
		{"weekly", `no such snapshot: "weekly" (drover snapshot ls lists the snapshots)`},
	} {
		_, err := e.Snapshot(e.Ctx, "", c.snap)
		controltest.Refused(t, err, dataset.ErrNotFound, c.says)
	}
	d := a.MustDelete("db")
	_, err = e.Snapshot(e.Ctx, "", "nightly")
	controltest.Refused(t, err, dataset.ErrNotFound, "snapshot ls")
	if s, err := e.Snapshot(e.Ctx, d.ID.String(), "nightly"); err != nil || s.ID != one.ID {
		t.Errorf("in the trash: %v, %v", s.ID, err)
	}
	e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()})
	for _, ref := range []string{"", d.ID.String()} {
		_, err = e.Snapshot(e.Ctx, ref, one.ID.String())
		controltest.Refused(t, err, dataset.ErrNotFound)
	}
}

// However many other things a prefix matches, the requested one is found: "no such volume" must be true (I7).
func TestPrefixAmongMany(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("crowd")
	for i := range 150 {
		forgeSnapshot(a, "crowd", "", fmt.Sprintf("abcd%04x-0000-4000-8000-000000000000", i))
	}
	last := a.CreateVolumeWithID("last", "abcdffff-0000-4000-8000-000000000000")
	if v, err := e.Volume(e.Ctx, "abcd"); err != nil || v.ID != last.ID {
		t.Errorf("%v, %v", v.ID, err)
	}
	_, err := e.Snapshot(e.Ctx, "", "abcd")
	controltest.Refused(t, err, dataset.ErrAmbiguous, "abcd0000", "abcd0009", "…")
	a.MustRefusePlan(controltest.Create("test@snapshot-abcd"), dataset.ErrAmbiguous, "use more")
	if op := a.MustPlan(controltest.Create("test@snapshot-abcdffff")); op.Source.Dataset != last.ID {
		t.Errorf("%+v", op.Source)
	}
	s := forgeSnapshot(a, "last", "", "abcdfffe-0000-4000-8000-000000000000")
	if got, err := e.Snapshot(e.Ctx, "last", "abcd"); err != nil || got.ID != s.ID {
		t.Errorf("%v, %v", got.ID, err)
	}
}

// A volume whose name is the UUID of a dataset is not taken for that dataset.
func TestNamedAsAUUID(t *testing.T) {
	e, a := controltest.OneNode(t)
	db := a.MustCreate("db")
	impostor := a.MustCreate(db.ID.String())
	if v := e.MustVolume(db.ID.String()); v.ID != db.ID {
		t.Errorf("%s is dataset %s", db.ID, v.ID)
	}
	op := a.MustPlan(api.Request{Kind: dataset.OpSnapshot, Volume: db.ID.String()})
	if op.DatasetID != db.ID {
		t.Errorf("snapshot of %s", op.DatasetID)
	}
	if v := e.MustVolume(impostor.ID.String()); v.ID != impostor.ID {
		t.Errorf("%+v", v)
	}
	if out := e.MustSubmit(controltest.Create(db.ID.String())); out.Volume.ID != impostor.ID {
		t.Errorf("requested again, it is %s", out.Volume.ID)
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
