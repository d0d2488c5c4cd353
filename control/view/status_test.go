package view_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// A volume has the problem of its pool at once: its home examines volumes that nobody uses only from time to time.
func TestVolumeOfAnOfflinePoolHasAProblem(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	seen := a.MustCreate("db")
	e.Reports.ForgetDatasetOf(a.ID, a.MustCreate("other").ID)
	report := func(pool dataset.PoolStatus, volumes ...dataset.DatasetStatus) {
		pool.ID = seen.Pool
		h := api.Heartbeat{
			Incarnation: a.Incarnation, Incremental: true, Pools: []dataset.PoolStatus{pool}, Datasets: volumes,
		}
		if err := a.Heartbeat(e.Ctx, a.ID, h); err != nil {
			t.Fatal(err)
		}
	}
	problems := func() (all []string) {
		list, err := e.Volumes(e.Ctx, api.Page{})
		if err != nil {
			t.Fatal(err)
		}
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
	if err != nil {
		t.Fatal(err)
	}
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
	if _, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
		return t.Put(record.SnapshotKey(d.ID, uuid.New()), record.Claim{ID: d.ID})
	}); err != nil {
		t.Fatal(err)
	}
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
		if err := b.Heartbeat(e.Ctx, b.ID, api.Heartbeat{Incarnation: b.Incarnation, Copies: []dataset.Copy{c}}); err != nil {
			t.Fatal(err)
		}
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
		if err != nil {
			t.Fatal(err)
		}
		if v := e.MustVolume("db"); v.Unreachable != want || len(list.Items) != 1 || list.Items[0].Unreachable != want {
			t.Errorf("%s: the volume is %+v, in a list %+v, want unreachable: %t", when, v, list.Items, want)
		}
		pools, err := e.Pools(e.Ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pools {
			if is := want && p.Node == a.ID; p.Unreachable != is {
				t.Errorf("%s: pool %s of %s is unreachable: %t, want %t", when, p.Name, p.NodeName, p.Unreachable, is)
			}
		}
	}
	renew := func(of *controltest.Agent) {
		t.Helper()
		if _, err := e.Members.Renew(e.Ctx, of.ID, of.Incarnation); err != nil {
			t.Fatal(err)
		}
	}
	renew(a)
	renew(b)
	a.ReportOnline(true)
	wants("at first", false)
	st, last := dataset.Node{ID: a.ID, Name: "alpha"}, e.Clock.Steady()
	for _, silence := range []time.Duration{reports.MaxSilence, reports.MaxSilence + time.Second} {
		if _, err := e.Reports.RecordHeartbeat(st, api.Heartbeat{}, last-silence); err != nil {
			t.Fatal(err)
		}
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
	if _, err := e.Members.Renew(e.Ctx, a.ID, a.Incarnation); err != nil {
		t.Fatal(err)
	}
	a.ReportOnline(true)
	damaged := store.Write{
		Key: record.LiveNodeKey(a.ID), Value: []byte("{"), Session: e.Members.Session(a.ID).Session,
	}
	if _, err := x.Store.Txn(e.Ctx, nil, []store.Write{damaged}); err != nil {
		t.Fatal(err)
	}
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
