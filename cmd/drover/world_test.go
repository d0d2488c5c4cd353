package main

import (
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
)

// The world of the tests: one node with two pools, a database in use, a clone of
// it with a problem, a volume in the trash.
var (
	now     = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	idNode  = uuid.MustParse("a0000000-0000-4000-8000-000000000001")
	idPool  = uuid.MustParse("b0000000-0000-4000-8000-000000000001")
	idDB    = uuid.MustParse("f23ca986-0000-4000-8000-000000000001")
	idTest  = uuid.MustParse("c0ffee00-0000-4000-8000-000000000002")
	idGone  = uuid.MustParse("e0000000-0000-4000-8000-000000000003")
	idBare  = uuid.MustParse("e1111111-0000-4000-8000-000000000004")
	idOther = uuid.MustParse("a0000000-0000-4000-8000-000000000002")
	idOp    = uuid.MustParse("0b000000-0000-4000-8000-000000000001")
	idReq   = uuid.MustParse("0c000000-0000-4000-8000-000000000001")
)

func snapID(n byte) uuid.UUID {
	id := uuid.MustParse("5a000000-0000-4000-8000-000000000000")
	id[0], id[15] = 0x50+n, n
	return id
}

func gold() dataset.Profile {
	mode := uint32(0o750)
	return dataset.Profile{
		Name: "gold", Revision: "0123456789ab", Description: "database volumes", Backend: "loop", Size: 20 * dataset.GiB,
		Filesystem: dataset.Filesystem{Type: "xfs", Mount: []string{"noatime"}},
		Snapshots:  dataset.Snapshots{Required: true, Schedule: "*/15 * * * *", Keep: dataset.Keep{Last: 4, Hourly: 24, Daily: 7}},
		Quiesce:    dataset.QuiesceFreeze,
		OnDelete:   dataset.OnDelete{Mode: dataset.DeleteTrash, Trash: dataset.Duration(72 * time.Hour)},
		Owner:      &dataset.Owner{UID: 999, GID: 999, Mode: &mode},
	}
}

func bronze() dataset.Profile {
	return dataset.Profile{Name: "bronze", Revision: "ba9876543210", Quiesce: dataset.QuiesceFlush, OnDelete: dataset.OnDelete{Mode: dataset.DeletePurge}}
}

func dbVolume() api.Volume {
	return api.Volume{
		Dataset: dataset.Dataset{
			ID: idDB, Volume: "db", RequestedAs: "db@gold", State: dataset.StateReady, Profile: gold(), Size: 20 * dataset.GiB,
			Labels: map[string]string{"team": "shop", "env": "prod"}, Protected: true,
			Home: idNode, Pool: idPool, Epoch: 1, Created: now.Add(-49 * time.Hour), Request: idReq,
		},
		Node: "host-a", PoolName: "default", Backend: "loop", Snapshots: 7,
		Status: &dataset.DatasetStatus{ID: idDB, Mounted: true, MountPath: "/var/lib/drover/mnt/" + idDB.String(), Used: new(1500 * dataset.MiB), InPool: new(1340 * dataset.MiB), Mounts: []dataset.Mount{
			{ID: "0011aabb", Count: 1, Since: now.Add(-3 * time.Hour)},
			{ID: "0022ccdd", Count: 2, Since: now.Add(-48 * time.Hour), Unverified: true},
		}, Usage: &dataset.Usage{Used: 1500 * dataset.MiB, Available: 18500 * dataset.MiB, Inodes: 10_485_760, InodesUsed: 1201}},
	}
}

// movingVolume returns a volume that is being moved, and has copies on two other nodes.
func movingVolume() api.Volume {
	v := dbVolume()
	v.Move, v.Copies = idOp, []uuid.UUID{idOther, idGone}
	v.Lease = &dataset.Lease{Dataset: idDB, Node: idNode, Epoch: 3, State: dataset.LeaseRecalled, InUse: true, WantedBy: idOther}
	v.CopyDetails = []api.CopyDetail{
		{NodeName: "host-b", Copy: dataset.Copy{Dataset: idDB, Node: idOther, Kind: dataset.CopyLeft, Epoch: 2, Snapshot: snapID(1), Taken: now.Add(-time.Hour), Expires: now.Add(23 * time.Hour)}},
		{NodeName: "host-c", Copy: dataset.Copy{Dataset: idDB, Node: idGone, Kind: dataset.CopySuperseded, Epoch: 1, Snapshot: snapID(2), Taken: now.Add(-48 * time.Hour)}},
	}
	return v
}

// looks makes the fake accept a request to mount a superseded copy, or to unmount it, and returns the copy.
func looks(c *console, kind dataset.OpKind) *api.CopyDetail {
	c.fake.volumes[0] = movingVolume()
	done := ended(dataset.OpDone, nil)
	done.op.Kind, done.op.OtherNode = kind, idGone
	c.fake.outcome = api.Outcome{Operation: &done.op}
	k := &c.fake.volumes[0].CopyDetails[1]
	k.MountReadOnly = kind == dataset.OpShow
	return k
}

func testVolume() api.Volume {
	v := dbVolume()
	v.ID, v.Volume, v.RequestedAs, v.Protected, v.Labels, v.Snapshots = idTest, "db-test", "db-test@snapshot-5100", false, nil, 0
	v.Profile, v.Size = bronze(), 0
	v.Origin = &dataset.Origin{Dataset: idDB, Snapshot: snapID(1)}
	v.Status = &dataset.DatasetStatus{ID: idTest, Used: new(12 * dataset.MiB), Problem: "pool default is offline: /mnt/xfs is not mounted"}
	return v
}

func goneVolume(id uuid.UUID, name string, days int) api.Volume {
	v := dbVolume()
	v.ID, v.Volume, v.Protected, v.State, v.Snapshots = id, name, false, dataset.StateTrashed, 2
	v.Status = &dataset.DatasetStatus{ID: id, InPool: new(dataset.GiB)}
	v.Trash = &dataset.Trash{At: now.Add(-time.Duration(days) * 24 * time.Hour)}
	if days == 1 {
		v.Trash.Expires = now.Add(49 * time.Hour)
	}
	return v
}

func snapshot(n byte, name, message string, age time.Duration) dataset.Snapshot {
	return dataset.Snapshot{
		ID: snapID(n), Dataset: idDB, Volume: "db", Name: name, Message: message, Kind: dataset.SnapshotManual,
		Size: 20 * dataset.GiB, Profile: gold(), Epoch: 1, Created: now.Add(-age), Request: idReq,
	}
}

func theWorld() *fake {
	f := &fake{
		volumes:  []api.Volume{dbVolume(), testVolume()},
		trash:    []api.Volume{goneVolume(idGone, "old", 1), goneVolume(idBare, "older", 9)},
		profiles: []dataset.Profile{bronze(), gold()},
		version:  api.Version{Version: "1.2.3", API: "1", Node: "host-a", Store: "bolt", Started: now.Add(-time.Hour)},
		holders: dataset.Holders{Node: "host-a", Total: 1, List: []dataset.Holder{{
			Kind: dataset.HolderContainer, Container: "0123456789abcdef", Engine: "docker", PID: 71, Command: "mysqld", User: "mysql", Path: "/data",
		}}},
		diff: api.Diff{Older: snapID(1).String(), Newer: "head", Bytes: 120 << 20, Zeroed: 4 << 20, Ranges: 35},
		data: "bytes",
		repositories: []dataset.Repository{{
			Name: "offsite", URL: "/mnt/nas/backups", Password: dataset.PasswordSource{File: "/etc/drover/offsite.pass"},
			Created: now.Add(-48 * time.Hour), By: "local root",
		}},
		backups: []api.VolumeBackup{
			{
				ID: strings.Repeat("1c09aa5f", 8), Repository: "offsite", Volume: "db", Taken: now.Add(-26 * time.Hour), Profile: "gold",
				Dataset: idDB, Operation: idReq,
			},
			{
				ID: strings.Repeat("1c09bb5f", 8), Repository: "offsite", Volume: "db", Taken: now.Add(-2 * time.Hour), Profile: "gold",
				Dataset: idDB, Snapshot: snapID(1),
			},
			{
				ID: strings.Repeat("77e0dd01", 8), Repository: "offsite", Volume: "lost", Taken: now.Add(-50 * time.Hour), Profile: "platinum",
				Dataset: idGone,
			},
		},
		versions: api.VersionList{Items: dataset.History{
			pushedVersion(1, 0, "db", 50*time.Hour), pushedVersion(2, 1, "db", 26*time.Hour), pushedVersion(3, 0, "shop", 2*time.Hour),
		}},
		nodes: []api.Node{{
			Live: true, StatusSince: now.Add(-time.Hour),
			Node: dataset.Node{ID: idNode, Name: "host-a", Version: "1.2.3", Pools: []uuid.UUID{idPool}, Labels: map[string]string{"rack": "1"}},
			Facts: &dataset.Facts{
				Node: idNode, Taken: now.Add(-3 * time.Minute), Architecture: "x86_64", Kernel: "6.12.3", OS: "debian", OSVersion: "12", Engine: "28.0.1",
				Virtual: true, CPUs: 4, MemoryTotal: 16 * dataset.GiB, MemoryFree: 9 * dataset.GiB, Load1: 0.5, Load10: 1.25, Load15: 2, Backends: []string{"dir", "loop"},
				Pools: []dataset.PoolFacts{{ID: idPool, Name: "default", Backend: "loop", Online: true, Size: 40 * dataset.GiB, Free: 10 * dataset.GiB}},
			},
		}},
	}
	f.snapshots = []dataset.Snapshot{snapshot(1, "before-upgrade", "10.11 to 11.4", 48*time.Hour)}
	for n := byte(7); n > 1; n-- {
		s := snapshot(n, "", "", time.Duration(n)*time.Hour)
		s.Kind, s.Parent = dataset.SnapshotScheduled, snapID(1)
		f.snapshots = append(f.snapshots, s)
	}
	f.pool = dataset.Pool{
		ID: idPool, Name: "default", Node: idNode, Backend: "loop", Path: "/var/lib/drover/pools/default", Reach: dataset.ReachNode, Default: true,
		Note:         "an image of 40GiB, since /var/lib/drover lies on ext4",
		Capabilities: dataset.Capabilities{EnforcesSize: true, InstantSnapshot: true, CloneIndependent: true, OnlineGrow: true, OwnFilesystem: true, Delta: true, Filesystems: []string{"xfs", "ext4"}, OfflineGrow: []string{"ext4"}},
	}
	other := f.pool
	other.ID[15], other.Name, other.Default, other.Note, other.Backend, other.Path = 2, "plain", false, "", "dir", "/srv/plain"
	other.Capabilities = dataset.Capabilities{CloneIndependent: true, Shrink: true}
	f.pools = []api.Pool{
		{Pool: f.pool, NodeName: "host-a", Status: &dataset.PoolStatus{ID: idPool, Online: true, Size: 40 * dataset.GiB, Free: 10 * dataset.GiB, Leftovers: 1, UnknownObjects: 2, Provisioned: 50 * dataset.GiB, Overcommit: 1.5}},
		{Pool: other, NodeName: "host-a", Status: &dataset.PoolStatus{ID: other.ID, Reason: "/srv/plain is not mounted"}},
	}
	f.rebuilt = []api.Rebuilt{
		{Dataset: idDB, Volume: "db", Action: "known"},
		{Dataset: idGone, Volume: "db-e0000000", Action: "renamed", Note: "the name db is dataset f23ca986-0000-4000-8000-000000000001's"},
	}
	f.operations = []dataset.Operation{
		{ID: idOp, Kind: dataset.OpImport, State: dataset.OpRunning, Node: idNode, Volume: "big", By: "root (uid 0) on host-a", DatasetID: idGone, Created: now.Add(-time.Minute), Progress: dataset.Progress{Step: "copy", Done: 1 << 30, Total: 4 << 30}},
		{ID: idReq, Kind: dataset.OpSnapshot, State: dataset.OpFailed, Node: idNode, Volume: "db", Created: now.Add(-time.Hour), Ended: now.Add(-time.Hour), Problem: &dataset.Problem{Code: "no_space", Message: "pool default is full"}},
	}
	f.events = []api.Event{
		{ID: 1, Time: now.Add(-time.Minute), Type: "volume.create", Volume: "db", Dataset: idDB, Node: "host-a", By: "engine docker", Detail: "profile gold"},
		{ID: 2, Time: now, Type: "pool.full", Node: "host-a", Detail: "default\x1b[2J"},
	}
	f.findings = []api.Finding{
		condition.PoolWorks.Finding("pool default", "", "10GiB", "40GiB", "/srv", "on ext4"),
		condition.DatasetUnknown.Finding("dataset "+idGone.String(), "drover doctor --gc "+idGone.String()+" --dry-run shows what it is", "default", "volume old"),
	}
	return f
}

func running(step string, done, total int64) answer {
	return answer{op: dataset.Operation{ID: idOp, Kind: dataset.OpCreate, State: dataset.OpRunning, Volume: "db", DatasetID: idDB, Progress: dataset.Progress{Step: step, Done: done, Total: total}}}
}

func ended(state dataset.OpState, p *dataset.Problem) answer {
	a := running("", 0, 0)
	a.op.State, a.op.Problem, a.op.Ended = state, p, now
	v := dbVolume()
	a.op.DatasetRecord = &v.Dataset
	return a
}

// works makes the fake take a request as an operation that ends with last.
func works(f *fake, last answer, before ...answer) {
	first := last.op
	first.State, first.Problem, first.Ended = dataset.OpPending, nil, time.Time{}
	f.outcome = api.Outcome{Operation: &first}
	f.progress = append(append([]answer{}, before...), last)
}
