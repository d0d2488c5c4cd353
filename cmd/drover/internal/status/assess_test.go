package status

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
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
	const restart = "restart what runs an older one: first the control replicas, one after the other, then the guard and " +
		"agent of each host"
	const inspectDB, inspectPool = "drover volume inspect db", "drover pool inspect alpha/default"
	const inspectOther = "drover pool inspect beta/default" // alpha has a pool default too
	for name, c := range map[string]struct {
		change func(*Cluster)
		want   []api.Finding
	}{
		"healthy": {func(*Cluster) {}, nil},
		"home is unreachable": {
			func(c *Cluster) { c.Nodes[0].Live, c.Nodes[0].StatusSince = false, now.Add(-3*time.Minute) },
			[]api.Finding{find("error", "node alpha", "unreachable for 3 minutes; home of 1 volume: db", "drover node inspect alpha")},
		},
		"home does not report": {
			func(c *Cluster) {
				c.Health = &api.ClusterHealth{Findings: []api.Finding{
					find("warning", "node alpha", api.SilentPrefix+"19s: its agent hangs", "drover node inspect alpha"),
					find("warning", "node beta", api.SilentPrefix+"19s: its agent hangs", "drover node inspect beta"),
				}}
			},
			[]api.Finding{
				find("warning", "node alpha", "not reporting for 19s: its agent hangs; home of 1 volume: db",
					"drover node inspect alpha"),
				find("warning", "node beta", "not reporting for 19s: its agent hangs", "drover node inspect beta"),
			},
		},
		"node without volumes is unreachable": {
			func(c *Cluster) { c.Nodes[1].Live, c.Nodes[1].StatusSince, c.Pools[1].Status = false, time.Time{}, nil },
			[]api.Finding{find("warning", "node beta", "unreachable; no volume has its home there", "drover node inspect beta")},
		},
		"versions differ": {
			func(c *Cluster) { c.Nodes[1].Version = "1.2.4" },
			[]api.Finding{find("warning", "versions", "different versions run: 1.2.3 on alpha; 1.2.4 on beta", restart)},
		},
		"a control replica has another version": {
			func(c *Cluster) {
				c.Health = &api.ClusterHealth{Replicas: []api.ControlReplica{{Name: "alpha", Version: "1.2.4"}, {Name: "beta", Version: "1.2.3"}}}
			},
			[]api.Finding{find("warning", "versions",
				"different versions run: 1.2.3 on alpha, beta, control replica beta; 1.2.4 on control replica alpha", restart)},
		},
		"cordoned": {
			func(c *Cluster) { c.Nodes[1].Cordoned = true },
			[]api.Finding{find("info", "node beta", "cordoned: nothing new is placed on it", "drover node cordon --off beta")},
		},
		"draining and unreachable": {
			func(c *Cluster) {
				c.Nodes[1].Cordoned, c.Nodes[1].Draining, c.Nodes[1].Live, c.Nodes[1].StatusSince = true, true, false, time.Time{}
			},
			[]api.Finding{
				find("warning", "node beta", "unreachable; no volume has its home there", "drover node inspect beta"),
				find("info", "node beta", "draining: nothing new is placed on it", "drover node cordon --off beta"),
			},
		},
		"a removed node has another version": {
			func(c *Cluster) { c.Nodes[1].Version, c.Nodes[1].Removed = "1.2.4", now },
			nil,
		},
		"pool of this host is offline": {
			func(c *Cluster) { c.Pools[0].Status = &dataset.PoolStatus{Reason: "/srv is not mounted"} },
			[]api.Finding{find("error", "pool default", "offline: /srv is not mounted", inspectPool)},
		},
		"the doctor knows why": {
			func(c *Cluster) {
				c.Pools[0].Status = &dataset.PoolStatus{Reason: "/srv is not mounted"}
				c.Pools[1].Status = c.Pools[0].Status
				c.Doctor = append(c.Doctor, find("error", "pool default", "its disk fails", "dmesg"))
			},
			[]api.Finding{
				find("error", "pool default", "its disk fails", "dmesg"),
				find("error", "pool default on beta", "offline: /srv is not mounted", inspectOther),
			},
		},
		"pool is held": {
			func(c *Cluster) {
				c.Pools[1].Status = &dataset.PoolStatus{Quarantined: true, Reason: "its generation is 5 and was 7"}
			},
			[]api.Finding{find("error", "pool default on beta", "held: its generation is 5 and was 7", inspectOther)},
		},
		"pool is not reported": {
			func(c *Cluster) { c.Pools[1].Status = nil },
			[]api.Finding{find("warning", "pool default on beta", "the node has not reported the pool", inspectOther)},
		},
		"pool is nearly full": {
			func(c *Cluster) { c.Pools[1].Status.Free = 15 * dataset.GiB },
			[]api.Finding{find("warning", "pool default on beta", "NEARLY FULL: 85% of 100GiB used", inspectOther)},
		},
		"pool has 16 percent left": {func(c *Cluster) { c.Pools[1].Status.Free = 16 * dataset.GiB }, nil},
		"volume is full": {
			func(c *Cluster) {
				st := c.Volumes[0].Status
				st.Usage, st.Fullness = &dataset.Usage{Used: 20 * dataset.GiB}, dataset.Full
				c.Doctor = append(c.Doctor, find("error", "volume db", "its key is missing", ""),
					find("warning", "volume db", "NEARLY FULL: 92% of 20GiB used", "drover volume resize db 30GiB"))
			},
			[]api.Finding{
				find("error", "volume db", "FULL: 100% of 20GiB used", "drover volume resize db 30GiB"),
				find("error", "volume db", "its key is missing", ""),
			},
		},
		"mounted volume is full and cannot grow while mounted": {
			func(c *Cluster) {
				c.Volumes[0].Pool, c.Volumes[0].PoolName = c.Pools[0].ID, "default"
				c.Volumes[0].Profile.Filesystem.Type = "ext4"
				c.Pools[0].Capabilities = dataset.Capabilities{EnforcesSize: true, OnlineGrow: true, OfflineGrow: []string{"ext4"}}
				st := c.Volumes[0].Status
				st.Mounted, st.Usage, st.Fullness = true, &dataset.Usage{Used: 20 * dataset.GiB}, dataset.Full
			},
			[]api.Finding{find("error", "volume db", "FULL: 100% of 20GiB used", "stop its containers (drover volume "+
				"inspect db names them), run drover volume resize db 30GiB, and start them again: ext4 cannot grow while "+
				"mounted on its node")},
		},
		"volume is full because its pool is": {
			func(c *Cluster) {
				c.Volumes[0].Pool, c.Volumes[0].PoolName = c.Pools[0].ID, "default"
				c.Pools[0].Status.Free = dataset.GiB
				c.Doctor = append(c.Doctor, find("error", "pool default", "FULL: 99% used", "free some space"))
				st := c.Volumes[0].Status
				st.Usage, st.Fullness = &dataset.Usage{Used: 18 * dataset.GiB, Available: 2 * dataset.GiB}, dataset.NearlyFull
			},
			[]api.Finding{
				find("error", "pool default", "FULL: 99% used", "free some space"),
				find("warning", "volume db", "NEARLY FULL: 90% of 20GiB used",
					"a larger volume would not help, because pool default has only 1GiB free: enlarge the pool's filesystem (drover pool inspect default), move volumes away (drover pool ls shows the other pools), or remove what drover snapshot ls --size and drover trash ls list"),
			},
		},
		"pool of two volumes is offline": {
			func(c *Cluster) {
				c.Pools[0].Status = &dataset.PoolStatus{Reason: "no mount point"}
				v := c.Volumes[0]
				v.Pool, v.PoolName, v.Status = c.Pools[0].ID, "default", &dataset.DatasetStatus{Problem: "pool default is offline: no mount point"}
				used := v
				used.ID, used.Volume, used.Status = uuid.New(), "used", &dataset.DatasetStatus{Mounted: true, Problem: v.Status.Problem}
				c.Volumes[0] = v
				c.Volumes = append(c.Volumes, used)
			},
			[]api.Finding{
				find("error", "pool default", "offline: no mount point", inspectPool),
				find("error", "volume used", "pool default is offline: no mount point", "drover volume inspect used"),
			},
		},
		"volume has a problem": {
			func(c *Cluster) { c.Volumes[0].Status.Problem = "pool default is offline" },
			[]api.Finding{find("error", "volume db", "pool default is offline", inspectDB)},
		},
		"replica is stale": {
			func(c *Cluster) { c.Volumes[0].CopyDetails[0].VerifiedAt = now.Add(-6 * time.Minute) },
			[]api.Finding{find("warning", "volume db", "replica on node beta is stale: last verified 6 minutes ago", inspectDB)},
		},
		"replica cannot be refreshed": {
			func(c *Cluster) {
				c.Volumes[0].CopyDetails[0].Problem = "from its home, node alpha: no route"
				found := &api.NodeFindings{Examined: now, Findings: []api.Finding{
					find("warning", "volume db", "cannot refresh its replica here, retrying: no route", ""),
					find("warning", "volume other", "cannot refresh its replica here, retrying: no route", ""),
				}}
				c.Health = &api.ClusterHealth{Nodes: []api.NodeHealth{{Name: "beta", Live: true, Found: found}}}
			},
			[]api.Finding{
				find("warning", "volume db", "replica on node beta cannot be refreshed, retrying: from its home, node alpha: no route", inspectDB),
				find("warning", "volume other on beta", "cannot refresh its replica here, retrying: no route", ""),
			},
		},
		"replica cannot be refreshed, because its home is unreachable": {
			func(c *Cluster) {
				c.Nodes[0].Live, c.Nodes[0].StatusSince = false, now.Add(-3*time.Minute)
				c.Volumes[0].Unreachable, c.Volumes[0].Status.Problem = true, "its disk hangs"
				c.Volumes[0].CopyDetails[0].Problem = "from its home, node alpha: no route"
			},
			[]api.Finding{find("error", "node alpha", "unreachable for 3 minutes; home of 1 volume: db", "drover node inspect alpha")},
		},
		"replica cannot be refreshed and is stale": {
			func(c *Cluster) {
				k := &c.Volumes[0].CopyDetails[0]
				k.VerifiedAt, k.Problem = now.Add(-6*time.Minute), "its pool is full"
			},
			[]api.Finding{find("warning", "volume db",
				"replica on node beta is stale: last verified 6 minutes ago; it cannot be refreshed: its pool is full", inspectDB)},
		},
		"left copy just became a replica": {
			func(c *Cluster) {
				c.Volumes[0].CopyDetails[0].VerifiedAt, c.Volumes[0].CopyDetails[0].Taken = time.Time{}, now.Add(-time.Minute)
			},
			nil,
		},
		"pool of this host is nearly full, which doctor reports": {
			func(c *Cluster) {
				c.Pools[0].Status.Free = 15 * dataset.GiB
				c.Doctor = append(c.Doctor, find("warning", "pool default", "85% used", ""))
			},
			[]api.Finding{find("warning", "pool default", "85% used", "")},
		},
		"replica is not complete": {
			func(c *Cluster) { c.Volumes[0].CopyDetails[0].Snapshot = uuid.Nil },
			[]api.Finding{find("warning", "volume db", "degraded: 0 of 1 replica complete, building replica on beta", inspectDB)},
		},
		"no node can have a replica": {
			func(c *Cluster) { c.Volumes[0].CopyDetails = nil },
			[]api.Finding{find("warning", "volume db", "degraded: 0 of 1 replica complete", inspectDB)},
		},
		"no node can have a replica, and control says why": {
			func(c *Cluster) {
				c.Volumes[0].CopyDetails, c.Volumes[0].Created = nil, now.Add(-time.Minute)
				c.Volumes[0].ReplicaShortage = "there is no other node"
			},
			[]api.Finding{find("warning", "volume db",
				"degraded: 0 of 1 replica complete; no node can keep another: there is no other node",
				"drover node ls; drover pool ls; or drover volume set-profile db PROFILE, with fewer replicas")},
		},
		"new volume has no replica yet": {
			func(c *Cluster) { c.Volumes[0].CopyDetails, c.Volumes[0].Created = nil, now.Add(-time.Minute) },
			nil,
		},
		"superseded copy": {
			func(c *Cluster) {
				k := api.CopyDetail{NodeName: "gamma", Copy: dataset.Copy{Kind: dataset.CopySuperseded}}
				c.Volumes[0].CopyDetails = append(c.Volumes[0].CopyDetails, k)
			},
			[]api.Finding{find("warning", "volume db", "node gamma keeps a superseded copy, with data that the volume does not have",
				"drover copy ls")},
		},
		"operation failed": {
			func(c *Cluster) { c.Operations = []dataset.Operation{failed(op1, time.Hour, dataset.OpFailed)} },
			[]api.Finding{find("warning", "operation "+op1.String(), "snapshot of db failed about an hour ago: pool default is full", "drover snapshot create db")},
		},
		"operation failed, and then succeeded": {
			func(c *Cluster) {
				c.Operations = []dataset.Operation{failed(op1, time.Hour, dataset.OpFailed), failed(op2, time.Minute, dataset.OpDone)}
			},
			nil,
		},
		"operation refused": {
			func(c *Cluster) {
				refused := failed(op1, time.Hour, dataset.OpFailed)
				refused.Kind, refused.Problem.Code = dataset.OpRestore, dataset.ErrInUse.Code
				c.Operations = []dataset.Operation{refused}
			},
			nil,
		},
		"scheduled backup refused": {
			func(c *Cluster) { c.Operations = []dataset.Operation{scheduledBackup()} },
			[]api.Finding{find("warning", "operation "+op1.String(), "backup of db failed about an hour ago: pool default is full", "drover repository check offsite, then drover backup create db --to offsite")},
		},
		"scheduled backup refused twice": {
			func(c *Cluster) {
				c.Operations = []dataset.Operation{scheduledBackup()}
				c.Health = &api.ClusterHealth{Findings: []api.Finding{find("warning", "volume db", "its scheduled backup failed 2 times", "drover operation ls")}}
			},
			[]api.Finding{find("warning", "volume db", "its scheduled backup failed 2 times", "drover repository check offsite, then drover backup create db --to offsite")},
		},
		"scheduled backup failed": {
			func(c *Cluster) {
				op := scheduledBackup()
				op.Problem.Code = dataset.ErrUnavailable.Code
				c.Operations = []dataset.Operation{op}
			},
			[]api.Finding{find("warning", "operation "+op1.String(), "backup of db failed about an hour ago: pool default is full", "drover backup create db --to offsite")},
		},
		"scheduled backup refused, then a good manual one": {
			func(c *Cluster) {
				good := failed(op2, time.Minute, dataset.OpDone)
				good.Kind, good.Problem = dataset.OpBackup, nil
				c.Operations = []dataset.Operation{scheduledBackup(), good}
			},
			nil,
		},
		"manual snapshot refused, scheduled snapshot refused before": {
			func(c *Cluster) {
				scheduled, manual := failed(op1, time.Hour, dataset.OpFailed), failed(op2, time.Minute, dataset.OpFailed)
				scheduled.Snapshot = &dataset.Snapshot{Kind: dataset.SnapshotScheduled}
				manual.Snapshot = &dataset.Snapshot{Kind: dataset.SnapshotManual}
				scheduled.Problem.Code, manual.Problem.Code = dataset.ErrNoSpace.Code, dataset.ErrNoSpace.Code
				c.Operations = []dataset.Operation{scheduled, manual}
			},
			[]api.Finding{find("warning", "operation "+op1.String(), "snapshot of db failed about an hour ago: pool default is full", "drover volume ls --sort -in_pool")},
		},
		"manual snapshot failed": {
			func(c *Cluster) {
				f := failed(op1, time.Hour, dataset.OpFailed)
				f.Snapshot, f.Problem.Code = &dataset.Snapshot{Kind: dataset.SnapshotManual}, dataset.ErrCorrupt.Code
				c.Operations = []dataset.Operation{f}
			},
			[]api.Finding{find("warning", "operation "+op1.String(), "snapshot of db failed about an hour ago: pool default is full", "drover snapshot create db")},
		},
		"removal of an expired snapshot failed": {
			func(c *Cluster) {
				f := failed(op1, time.Hour, dataset.OpFailed)
				f.Kind, f.Problem.Code = dataset.OpSnapshotDelete, dataset.ErrInUse.Code
				c.Operations = []dataset.Operation{f}
			},
			[]api.Finding{find("warning", "operation "+op1.String(), "snapshot-delete of db failed about an hour ago: pool default is full", "drover operation inspect "+op1.String())},
		},
		"purge failed": {
			func(c *Cluster) {
				f, other := failed(op1, time.Hour, dataset.OpFailed), failed(op2, time.Minute, dataset.OpDone)
				f.Kind, f.DatasetID = dataset.OpPurge, op1
				other.Kind, other.DatasetID = dataset.OpPurge, op2 // another dataset of that name
				c.Operations, c.Trash = []dataset.Operation{f, other}, map[uuid.UUID]bool{op1: true}
			},
			[]api.Finding{find("warning", "operation "+op1.String(), "purge of db failed about an hour ago: pool default is full", "drover operation inspect "+op1.String())},
		},
		"purge failed, and drover has repeated it with success": {
			func(c *Cluster) {
				f := failed(op1, time.Hour, dataset.OpFailed)
				f.Kind, f.DatasetID = dataset.OpPurge, op1
				c.Operations, c.Trash = []dataset.Operation{f}, map[uuid.UUID]bool{op2: true}
			},
			nil,
		},
		"purge failed, and the trash is not known": {
			func(c *Cluster) {
				f := failed(op1, time.Hour, dataset.OpFailed)
				f.Kind, f.DatasetID = dataset.OpPurge, op1
				c.Operations = []dataset.Operation{f}
			},
			[]api.Finding{find("warning", "operation "+op1.String(), "purge of db failed about an hour ago: pool default is full", "drover operation inspect "+op1.String())},
		},
		"operation failed long ago": {
			func(c *Cluster) { c.Operations = []dataset.Operation{failed(op1, 25*time.Hour, dataset.OpFailed)} },
			nil,
		},
		"operation takes long": {
			func(c *Cluster) {
				c.Operations = []dataset.Operation{{ID: op1, Kind: dataset.OpMove, Volume: "db", State: dataset.OpRunning, Created: now.Add(-2 * time.Hour)}}
			},
			[]api.Finding{find("warning", "operation "+op1.String(), "move of db started 2 hours ago and still runs", "drover operation inspect --wait "+op1.String())},
		},
		"scheduled snapshot is late": {
			func(c *Cluster) {
				c.Operations = []dataset.Operation{
					{ID: op1, Kind: dataset.OpSnapshot, Volume: "db", State: dataset.OpPending, Created: now.Add(-11 * time.Minute)},
					{ID: op2, Kind: dataset.OpSnapshot, Volume: "db", State: dataset.OpPending, Created: now.Add(-9 * time.Minute)},
				}
			},
			[]api.Finding{find("warning", "volume db", "a snapshot is late: it was due 11 minutes ago", "drover operation inspect --wait "+op1.String())},
		},
		"another node has more findings than it reports": {
			func(c *Cluster) {
				found := &api.NodeFindings{Examined: now, Findings: []api.Finding{find("warning", "clock", "is behind", "")}, Omitted: 7}
				c.Health = &api.ClusterHealth{Nodes: []api.NodeHealth{{Name: "beta", Live: true, Found: found}}}
			},
			[]api.Finding{
				find("warning", "agent on beta", "has 7 further findings", "run drover doctor on that host"),
				find("warning", "clock on beta", "is behind", ""),
			},
		},
		"the doctor repeats itself": {
			func(c *Cluster) {
				f := find("warning", "clock", "is behind", "")
				g := find("warning", "clock", "jumped", "")
				c.Doctor = append(c.Doctor, f, find("error", "guard", "does not answer", ""), g, f)
			},
			[]api.Finding{find("error", "guard", "does not answer", ""), find("warning", "clock", "is behind", ""),
				find("warning", "clock", "jumped", "")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := healthy()
			c.change(&cluster)
			want := Report{
				Healthy: !slices.ContainsFunc(c.want, func(f api.Finding) bool { return f.Level != "info" }), Nodes: 2, Pools: 2, Volumes: len(cluster.Volumes), Findings: append([]api.Finding{}, c.want...),
			}
			if d := cmp.Diff(want, Assess(cluster, now)); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

// TestHaltedStore: the suspension of changes is reported on a control replica, which has no doctor, and once on a node
// whose doctor reports it too.
func TestHaltedStore(t *testing.T) {
	health := &api.ClusterHealth{Store: api.StoreHealth{Halted: "changes suspended (drover store recover)"}}
	doctor := []api.Finding{{Level: "error", Subject: "store", Text: "it is older", Fix: "drover store recover"}}
	for want, c := range map[string]Cluster{
		"changes suspended (drover store recover)": {Health: health},
		"it is older": {Health: health, Local: "a", Doctor: doctor},
	} {
		if r := Assess(c, time.Now()); r.Healthy || len(r.Findings) != 1 || r.Findings[0].Text != want {
			t.Errorf("%+v, want one finding: %s", r.Findings, want)
		}
	}
}
