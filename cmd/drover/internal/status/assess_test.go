package status

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/golden"
)

var (
	now   = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	alpha = uuid.MustParse("a0000000-0000-4000-8000-000000000001")
	beta  = uuid.MustParse("b0000000-0000-4000-8000-000000000002")
	op1   = uuid.MustParse("01000000-0000-4000-8000-000000000001")
	op2   = uuid.MustParse("02000000-0000-4000-8000-000000000002")
)

// healthy is a cluster of two nodes with a pool each, and a volume with a replica.
func healthy() Cluster {
	node := func(id uuid.UUID, name string) api.Node {
		return api.Node{Live: true, StatusSince: now.Add(-time.Hour), Node: dataset.Node{ID: id, Name: name, Version: "1.2.3"}}
	}
	pool := func(n api.Node) api.Pool {
		return api.Pool{
			NodeName: n.Name, Pool: dataset.Pool{ID: uuid.New(), Name: "default", Node: n.ID},
			Status: &dataset.PoolStatus{Online: true, Size: 100 * dataset.GiB, Free: 50 * dataset.GiB},
		}
	}
	nodes := []api.Node{node(alpha, "alpha"), node(beta, "beta")}
	v := api.Volume{
		Node: "alpha", Status: &dataset.DatasetStatus{Used: new(10 * dataset.GiB)},
		Dataset: dataset.Dataset{
			ID: uuid.New(), Volume: "db", State: dataset.StateReady, Home: alpha, Size: 20 * dataset.GiB, Created: now.Add(-time.Hour),
			Profile: dataset.Profile{Replicas: dataset.Replicas{Count: 1, Every: dataset.Duration(time.Minute)}},
		},
		CopyDetails: []api.CopyDetail{{
			NodeName: "beta",
			Copy:     dataset.Copy{Node: beta, Kind: dataset.CopyReplica, Snapshot: uuid.New(), VerifiedAt: now.Add(-time.Minute)},
		}},
	}
	return Cluster{
		Local: "alpha", Nodes: nodes, Pools: []api.Pool{pool(nodes[0]), pool(nodes[1])}, Volumes: []api.VolumeSummary{v.Summary()},
		Doctor: []api.Finding{{Level: "ok", Subject: "control", Text: "responds"}, {Level: "info", Subject: "pool default", Text: "is being verified"}},
	}
}

func TestAssess(t *testing.T) {
	failed := func(id uuid.UUID, age time.Duration, state dataset.OpState) dataset.Operation {
		return dataset.Operation{
			ID: id, Kind: dataset.OpSnapshot, Volume: "db", State: state, Created: now.Add(-age),
			Problem: &dataset.Problem{Message: "pool default is full"},
		}
	}
	scheduledBackup := func() dataset.Operation {
		op := failed(op1, time.Hour, dataset.OpFailed)
		op.Kind, op.Scheduled, op.Repository, op.Problem.Code = dataset.OpBackup, true, "offsite", dataset.ErrForbidden.Code
		return op
	}
	find := func(level, subject, text, fix string) api.Finding {
		return api.Finding{Level: level, Subject: subject, Text: text, Fix: fix}
	}
	reported := func(c *Cluster, list ...api.Finding) { // by node beta
		found := &api.NodeFindings{Examined: now, Findings: list}
		c.Health = &api.ClusterHealth{Nodes: []api.NodeHealth{{Name: "beta", Live: true, Found: found}}}
	}
	var got strings.Builder
	for _, c := range []struct {
		name   string
		change func(*Cluster)
	}{
		{"healthy", func(*Cluster) {}},
		{"home is unreachable", func(c *Cluster) { c.Nodes[0].Live, c.Nodes[0].StatusSince = false, now.Add(-3*time.Minute) }},
		{"home does not report", func(c *Cluster) {
			c.Health = &api.ClusterHealth{Findings: []api.Finding{
				condition.NodeSilent.Finding("node alpha", "drover node inspect alpha", "19s"),
				condition.NodeSilent.Finding("node beta", "drover node inspect beta", "19s"),
			}}
		}},
		{"node without volumes is unreachable", func(c *Cluster) { c.Nodes[1].Live, c.Nodes[1].StatusSince, c.Pools[1].Status = false, time.Time{}, nil }},
		{"versions differ", func(c *Cluster) { c.Nodes[1].Version = "1.2.4" }},
		{"a control replica has another version", func(c *Cluster) {
			c.Health = &api.ClusterHealth{Replicas: []api.ControlReplica{{Name: "alpha", Version: "1.2.4"}, {Name: "beta", Version: "1.2.3"}}}
		}},
		{"cordoned", func(c *Cluster) { c.Nodes[1].Cordoned = true }},
		{"draining and unreachable", func(c *Cluster) {
			c.Nodes[1].Cordoned, c.Nodes[1].Draining, c.Nodes[1].Live, c.Nodes[1].StatusSince = true, true, false, time.Time{}
		}},
		{"a removed node has another version", func(c *Cluster) { c.Nodes[1].Version, c.Nodes[1].Removed = "1.2.4", now }},
		{"pool is not reported", func(c *Cluster) { c.Pools[1].Status = nil }},
		{"volume of another node is full", func(c *Cluster) {
			reported(c, condition.VolumeFull.Finding("volume db", "grow it", "100% of 20GiB used"))
		}},
		{"pool of two volumes is offline", func(c *Cluster) {
			c.Pools[0].Status = &dataset.PoolStatus{Reason: "no mount point"}
			v := c.Volumes[0]
			v.Pool, v.PoolName, v.Status = c.Pools[0].ID, "default", &dataset.DatasetStatus{Problem: "pool default is offline: no mount point"}
			used := v
			used.ID, used.Volume, used.Status = uuid.New(), "used", &dataset.DatasetStatus{Mounted: true, Problem: v.Status.Problem}
			c.Volumes[0] = v
			c.Volumes = append(c.Volumes, used)
		}},
		{"volume has a problem", func(c *Cluster) { c.Volumes[0].Status.Problem = "pool default is offline" }},
		{"replica is stale", func(c *Cluster) { c.Volumes[0].CopyDetails[0].VerifiedAt = now.Add(-6 * time.Minute) }},
		{"replica cannot be refreshed", func(c *Cluster) {
			c.Volumes[0].CopyDetails[0].Problem = "from its home, node alpha: no route"
			reported(c, condition.ReplicaBehind.Finding("volume db", "", "no route"))
		}},
		{"replica cannot be refreshed, because its home is unreachable", func(c *Cluster) {
			c.Nodes[0].Live, c.Nodes[0].StatusSince = false, now.Add(-3*time.Minute)
			c.Volumes[0].Unreachable, c.Volumes[0].Status.Problem = true, "its disk hangs"
			reported(c, condition.ReplicaBehind.Finding("volume db", "", "no route"))
		}},
		{"replica cannot be refreshed and is stale", func(c *Cluster) {
			k := &c.Volumes[0].CopyDetails[0]
			k.VerifiedAt, k.Problem = now.Add(-6*time.Minute), "its pool is full"
		}},
		{"left copy just became a replica", func(c *Cluster) {
			c.Volumes[0].CopyDetails[0].VerifiedAt, c.Volumes[0].CopyDetails[0].Taken = time.Time{}, now.Add(-time.Minute)
		}},
		{"replica is not complete", func(c *Cluster) { c.Volumes[0].CopyDetails[0].Snapshot = uuid.Nil }},
		{"no node can have a replica", func(c *Cluster) { c.Volumes[0].CopyDetails = nil }},
		{"no node can have a replica, and control says why", func(c *Cluster) {
			c.Volumes[0].CopyDetails, c.Volumes[0].Created = nil, now.Add(-time.Minute)
			c.Volumes[0].ReplicaShortage = "there is no other node"
		}},
		{"new volume has no replica yet", func(c *Cluster) { c.Volumes[0].CopyDetails, c.Volumes[0].Created = nil, now.Add(-time.Minute) }},
		{"superseded copy", func(c *Cluster) {
			k := api.CopyDetail{NodeName: "gamma", Copy: dataset.Copy{Kind: dataset.CopySuperseded}}
			c.Volumes[0].CopyDetails = append(c.Volumes[0].CopyDetails, k)
		}},
		{"operation failed", func(c *Cluster) { c.Operations = []dataset.Operation{failed(op1, time.Hour, dataset.OpFailed)} }},
		{"operation failed, and then succeeded", func(c *Cluster) {
			c.Operations = []dataset.Operation{failed(op1, time.Hour, dataset.OpFailed), failed(op2, time.Minute, dataset.OpDone)}
		}},
		{"operation refused", func(c *Cluster) {
			refused := failed(op1, time.Hour, dataset.OpFailed)
			refused.Kind, refused.Problem.Code = dataset.OpRestore, dataset.ErrInUse.Code
			c.Operations = []dataset.Operation{refused}
		}},
		{"scheduled backup refused", func(c *Cluster) { c.Operations = []dataset.Operation{scheduledBackup()} }},
		{"scheduled backup refused twice", func(c *Cluster) {
			c.Operations = []dataset.Operation{scheduledBackup()}
			c.Health = &api.ClusterHealth{Findings: []api.Finding{condition.BackupFailing.Finding("volume db", "drover operation ls", 2, "it is refused")}}
		}},
		{"scheduled backup failed", func(c *Cluster) {
			op := scheduledBackup()
			op.Problem.Code = dataset.ErrUnavailable.Code
			c.Operations = []dataset.Operation{op}
		}},
		{"scheduled backup refused, then a good manual one", func(c *Cluster) {
			good := failed(op2, time.Minute, dataset.OpDone)
			good.Kind, good.Problem = dataset.OpBackup, nil
			c.Operations = []dataset.Operation{scheduledBackup(), good}
		}},
		{"manual snapshot refused, scheduled snapshot refused before", func(c *Cluster) {
			scheduled, manual := failed(op1, time.Hour, dataset.OpFailed), failed(op2, time.Minute, dataset.OpFailed)
			scheduled.Snapshot = &dataset.Snapshot{Kind: dataset.SnapshotScheduled}
			manual.Snapshot = &dataset.Snapshot{Kind: dataset.SnapshotManual}
			scheduled.Problem.Code, manual.Problem.Code = dataset.ErrNoSpace.Code, dataset.ErrNoSpace.Code
			c.Operations = []dataset.Operation{scheduled, manual}
		}},
		{"manual snapshot failed", func(c *Cluster) {
			f := failed(op1, time.Hour, dataset.OpFailed)
			f.Snapshot, f.Problem.Code = &dataset.Snapshot{Kind: dataset.SnapshotManual}, dataset.ErrCorrupt.Code
			c.Operations = []dataset.Operation{f}
		}},
		{"removal of an expired snapshot failed", func(c *Cluster) {
			f := failed(op1, time.Hour, dataset.OpFailed)
			f.Kind, f.Problem.Code = dataset.OpSnapshotDelete, dataset.ErrInUse.Code
			c.Operations = []dataset.Operation{f}
		}},
		{"purge failed", func(c *Cluster) {
			f, other := failed(op1, time.Hour, dataset.OpFailed), failed(op2, time.Minute, dataset.OpDone)
			f.Kind, f.DatasetID = dataset.OpPurge, op1
			other.Kind, other.DatasetID = dataset.OpPurge, op2 // another dataset of that name
			c.Operations, c.Trash = []dataset.Operation{f, other}, map[uuid.UUID]bool{op1: true}
		}},
		{"purge failed, and drover has repeated it with success", func(c *Cluster) {
			f := failed(op1, time.Hour, dataset.OpFailed)
			f.Kind, f.DatasetID = dataset.OpPurge, op1
			c.Operations, c.Trash = []dataset.Operation{f}, map[uuid.UUID]bool{op2: true}
		}},
		{"purge failed, and the trash is not known", func(c *Cluster) {
			f := failed(op1, time.Hour, dataset.OpFailed)
			f.Kind, f.DatasetID = dataset.OpPurge, op1
			c.Operations = []dataset.Operation{f}
		}},
		{"operation failed long ago", func(c *Cluster) { c.Operations = []dataset.Operation{failed(op1, 25*time.Hour, dataset.OpFailed)} }},
		{"operation takes long", func(c *Cluster) {
			c.Operations = []dataset.Operation{{ID: op1, Kind: dataset.OpMove, Volume: "db", State: dataset.OpRunning, Created: now.Add(-2 * time.Hour)}}
		}},
		{"scheduled snapshot is late", func(c *Cluster) {
			c.Operations = []dataset.Operation{
				{ID: op1, Kind: dataset.OpSnapshot, Volume: "db", State: dataset.OpPending, Created: now.Add(-11 * time.Minute)},
				{ID: op2, Kind: dataset.OpSnapshot, Volume: "db", State: dataset.OpPending, Created: now.Add(-9 * time.Minute)},
			}
		}},
		{"another node has more findings than it reports", func(c *Cluster) {
			found := &api.NodeFindings{Examined: now, Findings: []api.Finding{find("warning", "clock", "is behind", "")}, Omitted: 7}
			c.Health = &api.ClusterHealth{Nodes: []api.NodeHealth{{Name: "beta", Live: true, Found: found}}}
		}},
		{"the doctor repeats itself", func(c *Cluster) {
			f := find("warning", "clock", "is behind", "")
			g := find("warning", "clock", "jumped", "")
			c.Doctor = append(c.Doctor, f, find("error", "guard", "does not answer", ""), g, f)
		}},
	} {
		cluster := healthy()
		c.change(&cluster)
		r := Assess(cluster, now)
		if healthy := !slices.ContainsFunc(r.Findings, func(f api.Finding) bool { return f.Level != "info" }); r.Healthy != healthy ||
			r.Nodes != 2 || r.Pools != 2 || r.Volumes != len(cluster.Volumes) {
			t.Errorf("%s: got %+v", c.name, r)
		}
		fmt.Fprintf(&got, "== %s\n", c.name)
		for _, f := range r.Findings {
			fmt.Fprintf(&got, "=> %s: %s: %s [%s]\n", f.Level, f.Subject, f.Text, f.Fix)
		}
	}
	golden.Check(t, "testdata/assess.txt", got.String())
}

// TestHaltedStore: the suspension of changes is reported on a control replica, which has no doctor, and once on a node
// whose doctor reports it too.
func TestHaltedStore(t *testing.T) {
	health := &api.ClusterHealth{Store: api.StoreHealth{Halted: "changes suspended (drover store recover)"}}
	doctor := []api.Finding{condition.StoreHalted.Finding("store", "drover store recover", "it is older")}
	for want, c := range map[string]Cluster{
		"changes suspended (drover store recover)": {Health: health},
		"it is older": {Health: health, Local: "a", Doctor: doctor},
	} {
		if r := Assess(c, time.Now()); r.Healthy || len(r.Findings) != 1 || r.Findings[0].Text != want {
			t.Errorf("%+v, want one finding: %s", r.Findings, want)
		}
	}
}
