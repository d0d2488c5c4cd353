package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/cmd/drover/internal/nodes"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
)

// scenarios are the worlds that a transcript can run a command in, by name.
var scenarios = map[string]func(c *console){
	"": func(*console) {},
	"empty": func(c *console) {
		*c.fake = fake{}
	},
	"repository-gone": func(c *console) {
		c.fake.fail = map[string]error{"CheckRepository": dataset.Errorf(dataset.ErrNotFound,
			"repository /mnt/nas/backups: there is no repository (mount its disk, or add the repository with the right URL under another name)")}
	},
	"backup-locked": func(c *console) {
		c.fake.fail = map[string]error{"RemoveBackup": dataset.Errorf(dataset.ErrInUse, "backups in offsite: repository /mnt/nas/backups: it is locked")}
	},
	"mirrored": func(c *console) { // a copy of repository offsite is recorded
		c.fake.repositories = append(c.fake.repositories, dataset.Repository{Name: "mirror", URL: "/mnt/mirror"})
		for _, b := range c.fake.backups {
			b.Repository = "mirror"
			c.fake.backups = append(c.fake.backups, b)
		}
	},
	"backup-unreadable": func(c *console) {
		works(c.fake, ended(dataset.OpDone, nil))
		c.fake.repositories = append(c.fake.repositories, dataset.Repository{Name: "away", URL: "/mnt/away"})
		c.fake.fail = map[string]error{"VolumeBackups of away": dataset.Errorf(dataset.ErrOffline, "backups in away: it does not answer")}
	},
	"operations-damaged": func(c *console) {
		c.fake.fail = map[string]error{"Operations": dataset.Errorf(dataset.ErrCorrupt, "store: value of operations/0b is damaged")}
	},
	"verified": func(c *console) {
		add := func(backup string, state dataset.OpState, ago time.Duration, kind ...*dataset.Kind) {
			c.fake.operations = append(c.fake.operations, dataset.Operation{
				ID: uuid.New(), Kind: dataset.OpVerify, State: state, Volume: "db", Repository: "offsite", Backup: backup, Ended: now.Add(-ago),
			})
			for _, k := range kind {
				c.fake.operations[len(c.fake.operations)-1].Problem = &dataset.Problem{Code: k.Code, Message: "failed"}
			}
		}
		add(c.fake.backups[0].ID, dataset.OpFailed, 3*time.Hour, dataset.ErrCorrupt)
		add(c.fake.backups[0].ID, dataset.OpDone, time.Hour)
		add(c.fake.backups[1].ID, dataset.OpFailed, 2*time.Minute, dataset.ErrCorrupt)
		// These say nothing about the backup.
		add(c.fake.backups[0].ID, dataset.OpFailed, time.Minute, dataset.ErrNoSpace)
		add(c.fake.backups[0].ID, dataset.OpFailed, time.Minute, dataset.ErrForbidden)
	},
	"clock-was-ahead": func(c *console) { // when the oldest backup of db was made
		works(c.fake, ended(dataset.OpDone, nil))
		clockWasAhead(c)
	},
	"wiped-clock-was-ahead": func(c *console) {
		wipedRestores(c)
		clockWasAhead(c)
	},
	"wiped-restored-older": wipedRestoredOlder,
	"wiped-apart-renamed":  wipedApartRenamed,
	"backup-unknown": func(c *console) { // no volume has the name of the repository
		works(c.fake, ended(dataset.OpDone, nil))
		c.fake.fail = map[string]error{"Submit offsite": dataset.Errorf(dataset.ErrNotFound, "no such volume: offsite")}
	},
	"wiped":               wiped,
	"wiped-restores":      wipedRestores,
	"wiped-fails":         wipedFails,
	"rehearses":           rehearses,
	"rehearses-elsewhere": rehearsesElsewhere,
	"wiped-unencrypted":   wipedUnencrypted,
	"wiped-scheduled": func(c *console) {
		wiped(c)
		c.fake.profiles[0].Backup.To, c.fake.profiles[1].Backup.To = "offsite", "nightly"
	},
	"wiped-restoring":          wipedRestoring,
	"wiped-restored":           wipedRestored,
	"wiped-elsewhere":          wipedElsewhere,
	"wiped-apart":              wipedApart,
	"wiped-pushing":            wipedPushing,
	"wiped-unreadable":         wipedUnreadable,
	"repository-used":          func(c *console) { c.fake.volumes[0].Profile.Backup.To = "offsite" },
	"repository-used-by-trash": func(c *console) { c.fake.trash[0].Profile.Backup.To = "offsite" },
	"repository-damaged": func(c *console) {
		c.fake.fail = map[string]error{"Repository": dataset.Errorf(dataset.ErrCorrupt, "store: value of repositories/offsite is damaged: unexpected end of JSON input")}
	},
	"repository-moved": func(c *console) {
		c.fake.fail = map[string]error{"AddRepository": dataset.Errorf(dataset.ErrExists,
			"repository offsite exists, at /mnt/nas/backups, with another URL, password or credentials (use another name)")}
	},
	"without-agent": func(c *console) {
		c.fake.fail = map[string]error{"CheckRepository": dataset.Errorf(dataset.ErrUnsupported,
			"this is control: run the command on a node, or send the request there (without DROVER_API and --api)")}
	},
	"away": func(c *console) {
		c.fake.fail = map[string]error{}
		for _, m := range []string{"Volumes", "Volume", "Submit", "Version", "Profiles", "Doctor", "NodeList", "Pools", "Operations", "ClusterHealth"} {
			c.fake.fail[m] = dataset.Errorf(dataset.ErrUnavailable, "cannot reach drover at unix:///run/drover/drover.sock\t(is it running?)")
		}
	},
	"cluster": func(c *console) { // a node with an error, two with the same warning, one that is unreachable, a lost server
		warning := condition.ControlReplicaUnreachable.Finding("control https://control-2:4440", "", "connection refused")
		found := func(list ...api.Finding) *api.NodeFindings {
			return &api.NodeFindings{Examined: now.Add(-8 * time.Second), Findings: list}
		}
		c.fake.volumes, c.fake.operations, c.fake.findings = nil, nil, append(c.fake.findings[:1:1], warning)
		c.fake.health = api.ClusterHealth{
			Store:    api.StoreHealth{Kind: "consul", Leader: "10.0.0.1:8300", Findings: []api.Finding{condition.StoreServerDown.Finding("store", "", "consul-3", "10.0.0.3:8300", "")}},
			Replicas: []api.ControlReplica{{ID: idReq, Name: "control-1", Address: "10.0.0.1:4440", Version: "1.2.3", Since: now.Add(-time.Hour), Housekeeper: true}},
			Nodes: []api.NodeHealth{
				{Name: "host-a", Live: true, Reported: now, Found: found(warning)},
				{Name: "host-b", Live: true, Reported: now, Found: found(warning, condition.RootFull.Finding("root", "drover trash purge", "/var/lib/drover", "1GiB", "40GiB"))},
				{Name: "host-c", Live: false, Reported: now.Add(-time.Minute), Found: found(warning)},
				{Name: "host-d", Live: true, Reported: now},
			},
		}
	},
	"paged": func(c *console) { c.fake.pageSize = 1 },
	"healthy": func(c *console) {
		c.fake.volumes, c.fake.pools, c.fake.operations, c.fake.findings = c.fake.volumes[:1], c.fake.pools[:1], nil, nil
	},
	"on-control": func(c *console) { // a replica that is not a node
		c.fake.version.Node = ""
		c.fake.fail = map[string]error{"Doctor": dataset.Errorf(dataset.ErrUnsupported, "this is control")}
	},
	"silent": func(c *console) { // the node has not been heard of
		for i := range c.fake.volumes {
			c.fake.volumes[i].Status = nil
		}
		for i := range c.fake.pools {
			c.fake.pools[i].Status = nil
		}
	},
	"held": func(c *console) { // the disk of a pool was put back to an older state
		c.fake.pools[0].Status = &dataset.PoolStatus{ID: idPool, Quarantined: true, Reason: "its generation is 5 and was 7: its disk was restored from an older state (drover pool accept default)"}
	},
	"new": func(c *console) {
		c.fake.volumes[0].Status, c.fake.volumes[0].Created, c.fake.volumes[0].Snapshots = nil, now.Add(-time.Second), 0
	},
	"rounded": func(c *console) { // as backend loop does with 50GB
		v := &c.fake.volumes[0]
		v.Size, v.Profile.Size, v.Status.Used = 50000003072, 50e9, new(dataset.Size(49e9))
		c.fake.trash[0].Size, c.fake.trash[0].Profile.Size = 50000003072, 0
		done := ended(dataset.OpDone, nil)
		c.fake.outcome = api.Outcome{Volume: v, Operation: &done.op}
	},
	"smaller": func(c *console) { // of a pool that can
		v := &c.fake.volumes[0]
		v.Size, v.Profile.Size = 20*dataset.GiB, 20*dataset.GiB
		done := ended(dataset.OpDone, nil)
		done.op.Kind = dataset.OpResize
		c.fake.outcome = api.Outcome{Volume: v, Operation: &done.op}
	},
	"keeps-size": func(c *console) { // a larger volume that gets another profile
		v, done := &c.fake.volumes[0], ended(dataset.OpDone, nil)
		v.Size, v.Profile.Size = 50*dataset.GiB, 50*dataset.GiB
		done.op.Kind, done.op.DatasetRecord = dataset.OpUpdate, &v.Dataset
		c.fake.outcome = api.Outcome{Volume: v, Operation: &done.op}
	},
	"backed-up": func(c *console) {
		done := ended(dataset.OpDone, nil)
		done.op.Kind, done.op.Repository, done.op.Volume = dataset.OpBackup, "offsite", "db"
		done.op.Backup, done.op.BytesAdded, done.op.DatasetRecord = strings.Repeat("1f2e3d4c", 8), 3<<20, nil
		c.fake.operations = []dataset.Operation{done.op}
		c.fake.outcome = api.Outcome{Volume: &c.fake.volumes[0], Operation: &done.op}
	},
	"unknown-node": func(c *console) {
		c.fake.fail = map[string]error{"Submit": dataset.Errorf(dataset.ErrInvalid, `unknown node (available: host-a)`)}
	},
	"shrinks": func(c *console) { // a larger volume in a pool that can shrink volumes
		v := &c.fake.volumes[0]
		v.Size, v.Profile.Size = 50*dataset.GiB, 50*dataset.GiB
		c.fake.pools[0].Capabilities.Shrink = true
		c.fake.outcome = api.Outcome{Volume: v}
	},
	"changed": func(c *console) { // changes of records only
		op := c.fake.operations[0]
		op.Kind, op.State, op.Volume, op.Progress = dataset.OpUpdate, dataset.OpDone, "db", dataset.Progress{}
		label, renamed := op, op
		label.Options, label.Change = map[string]string{dataset.OptionLabel + "env": "prod"}, "label env=prod"
		renamed.ID[15], renamed.Created, renamed.Kind = 3, op.Created.Add(time.Second), dataset.OpRename
		renamed.Volume, renamed.Change = "shop", "now db"
		c.fake.operations = []dataset.Operation{label, renamed}
	},
	"larger": func(c *console) {
		v := &c.fake.volumes[0]
		v.Size, v.Profile.Size = 50*dataset.GiB, 50*dataset.GiB
		c.fake.outcome = api.Outcome{Volume: v}
	},
	"anonymous": func(c *console) {
		long := strings.Repeat("0123456789abcdef", 4)
		c.fake.volumes[1].Volume, c.fake.trash[0].Volume, c.fake.events[0].Volume = long, long, long
		c.fake.operations[0].Volume, c.fake.snapshots[0].Volume = long, long
	},
	"full": func(c *console) {
		st := c.fake.volumes[0].Status
		st.Usage = &dataset.Usage{Used: 19 * dataset.GiB, Available: dataset.GiB, Inodes: 10_485_760, InodesUsed: 1201}
		st.Fullness = dataset.NearlyFull
	},
	// A volume that is not mounted: its node knows how full its filesystem was, or only the blocks in the pool.
	"at-rest": func(c *console) {
		c.fake.volumes[0].Status = &dataset.DatasetStatus{ID: idDB, Used: new(18450 * dataset.MiB)}
	},
	"full-at-rest": func(c *console) {
		c.fake.volumes[0].Status = &dataset.DatasetStatus{
			ID: idDB, Used: new(20700 * dataset.MiB), Fullness: dataset.Full,
			Usage: &dataset.Usage{Used: 20 * dataset.GiB},
		}
	},
	"over-size": func(c *console) { // the pool counts more blocks than the size of the volume
		c.fake.volumes[0].Status = &dataset.DatasetStatus{ID: idDB, Used: new(20700 * dataset.MiB)}
	},
	"no-lease": func(c *console) { c.fake.volumes[0].Lease = &dataset.Lease{Dataset: idDB, Node: idNode} },
	"same-pool": func(c *console) { // two nodes have a pool of the same name, and a volume has a problem
		other := c.fake.pools[0]
		other.ID, other.Node, other.NodeName = idOther, idOther, "host-b"
		c.fake.pools = append(c.fake.pools[:1:1], other)
		c.fake.volumes[0].Status = &dataset.DatasetStatus{ID: idDB, Problem: "pool default is full"}
	},
	"nosnaps": func(c *console) {
		c.fake.fail = map[string]error{"Snapshots": dataset.Errorf(dataset.ErrUnavailable, "store is away")}
	},
	"nothing-to-do": func(c *console) {
		v := dbVolume()
		c.fake.outcome = api.Outcome{Volume: &v}
	},
	"at-once": func(c *console) { // control alone did it
		v, done := dbVolume(), ended(dataset.OpDone, nil)
		c.fake.outcome = api.Outcome{Volume: &v, Operation: &done.op}
	},
	"renamed": func(c *console) { // the volume is db now, and was shop_data
		v, done := dbVolume(), ended(dataset.OpDone, nil)
		v.Aliases = []string{"shop_data", "shop"}
		done.op.Volume = "shop_data"
		c.fake.volumes[0] = v
		c.fake.outcome = api.Outcome{Volume: &v, Operation: &done.op}
	},
	"replicated": func(c *console) { // its replica on host-b is complete
		c.fake.volumes[0].Profile.Replicas = dataset.Replicas{Count: 1, Every: dataset.Duration(30 * time.Second)}
		c.fake.volumes[0].CopyDetails = copiesOn(dataset.Copy{Kind: dataset.CopyReplica, Snapshot: snapID(1), Taken: now}, "host-b")
		v, done := dbVolume(), ended(dataset.OpDone, nil)
		v.CopyDetails = copiesOn(dataset.Copy{Kind: dataset.CopyCondemned}, "host-b")
		c.fake.outcome = api.Outcome{Volume: &v, Operation: &done.op}
	},
	"fewer-replicas": func(c *console) { // a dry run whose profile has no replicas
		v, done := dbVolume(), ended(dataset.OpDone, nil)
		next := v.Dataset
		v.Profile.Replicas = dataset.Replicas{Count: 1, Every: dataset.Duration(30 * time.Second)}
		v.CopyDetails = copiesOn(dataset.Copy{Kind: dataset.CopyReplica, Snapshot: uuid.New(), Taken: now}, "host-b")
		done.op.DatasetRecord = &next
		c.fake.outcome = api.Outcome{Volume: &v, Operation: &done.op}
	},
	"builds-replicas": func(c *console) {
		v, done := dbVolume(), ended(dataset.OpDone, nil)
		v.Profile.Replicas = dataset.Replicas{Count: 2, Every: dataset.Duration(30 * time.Second)}
		v.CopyDetails = copiesOn(dataset.Copy{Kind: dataset.CopyReplica}, "host-c", "host-b")
		c.fake.volumes[0] = v
		c.fake.outcome = api.Outcome{Volume: &v, Operation: &done.op}
	},
	"works": func(c *console) { works(c.fake, ended(dataset.OpDone, nil)) },
	"backs-up": func(c *console) {
		b := dataset.Backups{To: "offsite", Schedule: "@daily"}
		c.fake.volumes[0].Profile.Backup, c.fake.volumes[0].Backups = b, &api.BackupState{Last: now.Add(-2 * time.Hour)}
		c.fake.profiles[1].Backup = b
	},
	"lacks-backup": func(c *console) {
		v := &c.fake.volumes[0]
		v.Profile.Backup.To, v.Backups = "offsite", &api.BackupState{Last: now, Newest: strings.Repeat("5f", 32)}
	},
	"works-encrypted": func(c *console) {
		works(c.fake, ended(dataset.OpDone, nil))
		encryptGold(c)
	},
	"quick": func(c *console) { works(c.fake, ended(dataset.OpDone, nil), running("", 0, 0)) },
	"slow": func(c *console) {
		works(c.fake, ended(dataset.OpDone, nil), running("", 0, 0), running("", 0, 0), running("format", 0, 0),
			running("copy", 0, 10<<30), running("copy", 1<<20, 10<<30), running("copy", 5<<30, 10<<30))
	},
	"restarts": func(c *console) {
		away := answer{err: dataset.Errorf(dataset.ErrUnavailable, "cannot reach drover")}
		works(c.fake, ended(dataset.OpDone, nil), away, running("copy", 0, 0), away, away)
	},
	"lost-sight": func(c *console) {
		works(c.fake, answer{err: dataset.Errorf(dataset.ErrForbidden, "not allowed")})
		pending := running("", 0, 0)
		c.fake.outcome.Operation = &pending.op
	},
	"fails": func(c *console) {
		works(c.fake, ended(dataset.OpFailed, &dataset.Problem{Code: "no_space", Message: "pool default is full"}), running("copy", 0, 0))
	},
	"bad-input": func(c *console) {
		c.fake.fail = map[string]error{"Submit": dataset.Errorf(dataset.ErrInvalid, `unknown profile "glod" (available: bronze, gold); did you mean gold?`)}
	},
	"destroys": func(c *console) { // as of an anonymous volume
		done := ended(dataset.OpDone, nil)
		done.op.DatasetRecord.Profile.OnDelete = dataset.OnDelete{Mode: dataset.DeletePurge}
		c.fake.volumes[0].Profile.OnDelete = dataset.OnDelete{Mode: dataset.DeletePurge}
		works(c.fake, done)
	},
	"refuses-purge": func(c *console) { // control refuses the deletion of db, whose data would be destroyed
		c.fake.volumes[0].Profile.OnDelete = dataset.OnDelete{Mode: dataset.DeletePurge}
		works(c.fake, ended(dataset.OpDone, nil))
		c.fake.fail = map[string]error{"Submit db": dataset.Errorf(dataset.ErrInvalid, "delete of volume db: it is an alias of volume orders (drover volume rm orders --dry-run shows what a deletion of the volume does)")}
	},
	"without-its-home": func(c *console) {
		v, done := dbVolume(), ended(dataset.OpDone, nil)
		done.op.OtherNode = v.Home
		c.fake.outcome = api.Outcome{Volume: &v, Operation: &done.op}
	},
	"tight-lipped": func(c *console) { // as one before this was on record
		done := ended(dataset.OpDone, nil)
		done.op.DatasetRecord = nil
		works(c.fake, done)
	},
	"moves": func(c *console) {
		c.fake.volumes[0] = movingVolume()
		done := ended(dataset.OpDone, nil)
		done.op.Kind, done.op.Node = dataset.OpMove, idOther
		works(c.fake, done, running("copying", 1<<30, 4<<30))
	},
	"shows": func(c *console) {
		k, n := looks(c, dataset.OpShow), 0
		c.fake.hook = func(method string) {
			if n++; method == "Volume" && n > 3 { // its node takes its time
				k.Path = "/var/lib/drover/mnt/" + idBare.String()
			}
		}
	},
	"shown":     func(c *console) { looks(c, dataset.OpShow).Path = "/var/lib/drover/mnt/" + idBare.String() },
	"shows-not": func(c *console) { looks(c, dataset.OpShow).Problem = "pool default is full" },
	"silence":   func(c *console) { looks(c, dataset.OpShow) },
	"hides":     func(c *console) { looks(c, dataset.OpHide) },
	"sealed": func(c *console) {
		d := &c.fake.volumes[0]
		d.Profile.Encryption = dataset.KeySource{KeyFile: "/etc/drover/keys/gold"}
		d.Encryption = &dataset.Encryption{ID: idBare, KeyID: "5f1c09aa", Wrapped: []byte("wrapped")}
		done := ended(dataset.OpDone, nil)
		done.op.Kind = dataset.OpRekey
		next := *done.op.DatasetRecord
		next.Encryption = &dataset.Encryption{ID: idBare, KeyID: "b8127e03", Wrapped: []byte("wrapped anew")}
		done.op.DatasetRecord = &next
		works(c.fake, done)
	},
	"same-key": func(c *console) {
		d := &c.fake.volumes[0]
		d.Encryption = &dataset.Encryption{ID: idBare, KeyID: "5f1c09aa", Wrapped: []byte("wrapped")}
		done := ended(dataset.OpDone, nil)
		done.op.Kind = dataset.OpRekey
		next := *done.op.DatasetRecord
		next.Encryption = d.Encryption
		done.op.DatasetRecord = &next
		works(c.fake, done)
	},
	"in-the-trash": func(c *console) {
		c.fake.fail = map[string]error{"Submit old": dataset.Errorf(dataset.ErrNotFound, "volume old: it is in the trash, where nothing is changed (drover trash restore e0000000, then drover volume rekey old)")}
	},
	"no-old-key": func(c *console) {
		works(c.fake, ended(dataset.OpFailed, &dataset.Problem{Code: "forbidden", Message: "rekey of volume db: the old key, 5f1c09aa: key file /root/gold.old not found"}))
	},
	"forced": func(c *console) {
		c.fake.volumes[0] = movingVolume()
		done := ended(dataset.OpDone, nil)
		done.op.Kind, done.op.Loss = dataset.OpMove, &dataset.Loss{Snapshot: snapID(1), Taken: now.Add(-time.Hour), PreviousHome: idNode}
		works(c.fake, done)
	},
	"deletes": func(c *console) {
		done := ended(dataset.OpDone, nil)
		c.fake.outcome = api.Outcome{Operation: &done.op}
		c.fake.fail = map[string]error{"Submit busy": dataset.Errorf(dataset.ErrInUse, "cannot delete volume busy: it is mounted")}
	},
	"cancelled": func(c *console) { works(c.fake, ended(dataset.OpCancelled, nil)) },
	"mute":      func(c *console) { works(c.fake, ended(dataset.OpFailed, nil)) },
	"snapshots": func(c *console) {
		done := ended(dataset.OpDone, nil)
		s := snapshot(1, "before-upgrade", "", 0)
		done.op.Kind, done.op.Snapshot = dataset.OpSnapshot, &s
		works(c.fake, done)
	},
	"several-snapshots": func(c *console) {
		op := ended(dataset.OpDone, nil).op
		s := snapshot(1, "before-upgrade", "", 0)
		op.Kind, op.Snapshot = dataset.OpSnapshot, &s
		c.fake.outcome = api.Outcome{Operation: &op}
		busy := c.fake.volumes[0]
		busy.Volume, busy.RequestedAs, busy.ID = "busy", "busy@gold", idGone
		c.fake.volumes = append(c.fake.volumes, busy)
		c.fake.fail = map[string]error{"Submit busy": dataset.Errorf(dataset.ErrNoSpace, "volume busy: pool main is full")}
	},
	"restores": func(c *console) {
		done := ended(dataset.OpDone, nil)
		s := snapshot(9, "", "before restore", 0)
		done.op.Kind, done.op.Snapshot, done.op.Source = dataset.OpRestore, &s, &dataset.Source{Dataset: idDB, Snapshot: snapID(1)}
		works(c.fake, done)
	},
	"clones": func(c *console) {
		done := ended(dataset.OpDone, nil)
		done.op.Kind, done.op.Volume = dataset.OpClone, "db-test"
		works(c.fake, done)
	},
	"clones-larger": func(c *console) { // than the profile of the clone
		done := ended(dataset.OpDone, nil)
		done.op.Kind, done.op.Volume = dataset.OpClone, "db-test"
		v := &c.fake.volumes[1]
		v.Profile, v.Size, v.Origin = gold(), 40*dataset.GiB, &dataset.Origin{Dataset: idDB, Implicit: true}
		v.Profile.Size = v.Size
		works(c.fake, done)
	},
	"purges": func(c *console) {
		done := ended(dataset.OpDone, nil)
		c.fake.outcome = api.Outcome{Operation: &done.op}
		c.fake.fail = map[string]error{"Submit " + idBare.String(): dataset.Errorf(dataset.ErrOffline, "pool default is offline")}
	},
	"namesakes": func(c *console) { // in the trash, from two pools
		c.fake.trash[0].PoolName = "plain"
		c.fake.trash[1].Volume = "old"
	},
	"broken": func(c *console) {
		c.fake.findings = append(c.fake.findings, condition.PoolOffline.Finding("pool plain", "mount /srv/plain", "/srv/plain is not mounted"))
	},
	"went-back": func(c *console) {
		c.fake.recovery = api.Recovery{
			Digest: "0123abcd", Halted: "store inconsistent; changes suspended: it went back (drover store recover)",
			ReportedNodes: []string{"alpha", "beta"}, SilentNodes: []string{"gamma"},
			Differences: []api.RecordDifference{
				{Dataset: idDB, Volume: "db", Action: "moved", InStore: "ready, epoch 1 on alpha", OnAgents: "ready, epoch 2 on beta"},
				{Dataset: idBare, Volume: "old", Action: "forgotten", InStore: "ready, epoch 1 on alpha"},
			},
		}
	},
	"unguarded":       func(c *console) { c.Fencer = nodes.DialGuard },
	"idle":            func(c *console) { c.guard.list = nil },
	"remote":          func(c *console) { c.env["DROVER_API"] = "https://drover.example" },
	"tar":             func(c *console) { c.In = strings.NewReader(strings.Repeat("x", 1000)) },
	"pushed":          hasPushed,
	"diverged":        hasDiverged,
	"overtaken":       isOvertaken,
	"pulled":          hasPulled,
	"damaged-version": hasDamagedVersion,
	"ages":            func(c *console) { *c.fake = *pruneWorld() },
	"deleted": func(c *console) { // a snapshot named first
		s := snapshot(9, "first", "", time.Hour)
		c.fake.operations = append(c.fake.operations, dataset.Operation{
			ID: idBare, Kind: dataset.OpSnapshotDelete, State: dataset.OpDone, Volume: "db", Snapshot: &s, Ended: now.Add(-time.Minute),
		})
		c.fake.fail = map[string]error{
			"Submit": dataset.Errorf(dataset.ErrInvalid, "volume db has profile gold, not first"),
			"Export": dataset.Errorf(dataset.ErrInvalid, "volume db has profile gold, not before-upgrade"),
		}
	},
	"requested": func(c *console) { // the first operation has a request ID
		c.fake.operations[0].RequestID = "4f1d0a7c2b9e"
	},
	"older-profile": func(c *console) {
		for i := range c.fake.volumes {
			c.fake.volumes[i].Profile.Revision = "0ldrevision0"
		}
	},
	"planted": func(c *console) { // a backup of another volume, whose ID begins with the name of a volume
		c.fake.volumes[0].Volume = "deadbeef"
		b := c.fake.backups[0]
		b.ID, b.Volume, b.Dataset = "deadbeef"+strings.Repeat("0", 56), "other", idBare
		c.fake.backups = []api.VolumeBackup{b}
	},
	"named-like-id": func(c *console) { // a volume whose name is the ID of a backup of another one
		c.fake.volumes[0].Volume = "deadbeef" + strings.Repeat("0", 56)
		own, other := c.fake.backups[0], c.fake.backups[0]
		own.Volume = c.fake.volumes[0].Volume
		other.ID, other.Volume, other.Dataset = own.Volume, "other", idBare
		c.fake.backups = []api.VolumeBackup{own, other}
	},
	"planted-lost": func(c *console) { // the same in a second repository, and the volume is lost
		twoRepositories(c)
		lost := c.fake.backups[0]
		lost.Volume, lost.Dataset = "deadbeef", idBare
		planted := lost
		planted.ID, planted.Volume, planted.Repository = "deadbeef"+strings.Repeat("0", 56), "other", c.fake.repositories[1].Name
		c.fake.backups = []api.VolumeBackup{lost, planted}
	},
	"many-backups":     manyBackups,
	"two-repositories": twoRepositories,
	"profile-names-repository": func(c *console) {
		twoRepositories(c)
		for i := range c.fake.volumes {
			c.fake.volumes[i].Profile.Backup.To = "offsite"
		}
	},
	"wiped-renamed": func(c *console) { // db was renamed to shop, which has a newer backup
		wipedThen(c, ended(dataset.OpDone, nil))
		newest := c.fake.backups[2]
		newest.ID, newest.Volume, newest.Taken = strings.Repeat("5eb1c3d7", 8), "shop", now.Add(-time.Hour)
		c.fake.backups = []api.VolumeBackup{c.fake.backups[2], newest}
	},
	"only-node": func(c *console) { // the other one was removed
		c.fake.nodes = append(c.fake.nodes, api.Node{Node: dataset.Node{ID: uuid.New(), Name: "former", Removed: now}})
	},
	"drain-refused": func(c *console) {
		*c.fake = *drainWithLoss()
		c.fake.byVolume, c.fake.fail = nil, map[string]error{"Submit": dataset.Errorf(dataset.ErrOffline, "there is no other node")}
	},
	"drain-loses":  func(c *console) { *c.fake = *drainWithLoss() },
	"purge-failed": failedPurge,
	"purge-succeeded-later": func(c *console) {
		failedPurge(c)
		c.fake.trash = nil
	},
	"events-of-volumes": func(c *console) { // db was named before, and old is gone
		for i, name := range []string{"before", "db", "db-test", "old"} {
			of := []uuid.UUID{idDB, idDB, idTest, idGone}[i]
			c.fake.events = append(c.fake.events[:i:i], api.Event{ID: uint64(i + 1), Time: now, Type: "volume.update", Volume: name, Dataset: of})
		}
	},
	"away-while-waiting": func(c *console) {
		works(c.fake, ended(dataset.OpDone, nil))
		c.fake.progress = nil
		c.fake.fail = map[string]error{"Operation": dataset.Errorf(dataset.ErrUnavailable, "cannot reach drover")}
	},
	"away-at-last": func(c *console) { // when the result is shown
		works(c.fake, ended(dataset.OpDone, nil))
		c.fake.fail = map[string]error{"Volume": dataset.Errorf(dataset.ErrUnavailable, "away")}
	},
	"one-socket": func(c *console) { c.fake.leftOut = api.OmittedFiles{Count: 1, First: []string{"mysql.sock"}} },
	"many-sockets": func(c *console) {
		c.fake.leftOut = api.OmittedFiles{Count: 5, First: []string{"a", "b\n\x1b[2J", "c"}}
	},
	"purges-later": func(c *console) { // the pool is offline
		waits := running("pending deletion: pool default is offline", 0, 0)
		waits.op.Kind, waits.op.Progress.Waiting = dataset.OpPurge, true
		works(c.fake, waits, waits, waits)
		c.fake.trash[0].State, c.fake.trash[0].Pending = dataset.StatePurging, "pool default is offline"
	},
	"purge-fails": func(c *console) {
		works(c.fake, ended(dataset.OpFailed, dataset.ProblemOf(dataset.Errorf(dataset.ErrInternal, "input/output error"))))
	},
}

// manyBackups: backup n has the ID nnnn…. The newest of db was made by another host that recovered db, and the one before
// is incomplete. Other volumes had the other names, or names that look like IDs.
func manyBackups(c *console) {
	works(c.fake, ended(dataset.OpDone, nil))
	like := c.fake.backups[0]
	c.fake.backups = nil
	for i, volume := range []string{"db", "db", "db", "gone", "cut", "98989898", "theirs", "db-test", "twice", "twice", "db"} {
		b := like
		b.ID, b.Volume, b.Taken = strings.Repeat(fmt.Sprintf("%x", i+1), 64), volume, like.Taken.Add(time.Duration(i)*time.Hour)
		b.Operation, b.Incomplete = uuid.Nil, i == 2 || volume == "cut"
		if b.Elsewhere = volume == "theirs" || i == 10; b.Elsewhere {
			b.Cluster = idOther
		}
		if b.Elsewhere || volume != "db" {
			b.Dataset = uuid.NewSHA1(idDB, []byte(volume+b.ID))
		}
		c.fake.backups = append(c.fake.backups, b)
	}
}

// twoRepositories: somebody who knows the password of team has stored a newer backup of db there.
func twoRepositories(c *console) {
	c.fake.repositories = append(c.fake.repositories, dataset.Repository{Name: "team"})
	planted := c.fake.backups[1]
	planted.ID, planted.Repository, planted.Taken = strings.Repeat("2", 64), "team", now
	c.fake.backups = append(c.fake.backups, planted)
	works(c.fake, ended(dataset.OpDone, nil))
}

// failedPurge: a purge has failed, and its dataset is still in the trash.
func failedPurge(c *console) {
	c.fake.operations = []dataset.Operation{{
		ID: idOp, Kind: dataset.OpPurge, Volume: "old", DatasetID: idGone, State: dataset.OpFailed,
		Created: now.Add(-time.Minute), Problem: &dataset.Problem{Message: "it has a snapshot that is in use"},
	}}
}
