package main

import (
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// hasPushed: the last operation has pushed volume db.
func hasPushed(c *console) {
	done := ended(dataset.OpDone, nil)
	done.op.Kind, done.op.Repository, done.op.Volume = dataset.OpPush, "offsite", "db"
	done.op.Push = &dataset.Push{Name: "prod", By: "local root"}
	done.op.Backup, done.op.BytesAdded, done.op.DatasetRecord = strings.Repeat("1f2e3d4c", 8), 3<<20, nil
	c.fake.operations = []dataset.Operation{done.op}
	c.fake.outcome = api.Outcome{Volume: &c.fake.volumes[0], Operation: &done.op}
}

// hasDiverged: two clusters have pushed to db, and volume db continues the first version.
func hasDiverged(c *console) {
	theirs := pushedVersion(4, 1, "db", time.Hour)
	theirs.Dataset, theirs.By, theirs.Node = idGone, "", ""
	c.fake.versions.Items = append(c.fake.versions.Items, theirs)
	c.fake.versions.Problem = nil
}

// isOvertaken: another cluster has continued what volume db pushed.
func isOvertaken(c *console) {
	theirs := pushedVersion(4, 2, "db", time.Hour)
	theirs.Dataset = idGone
	c.fake.versions.Items[1].Newest = false
	c.fake.versions.Items = append(c.fake.versions.Items, theirs)
}

// hasPulled: volume db was pulled.
func hasPulled(c *console) {
	done := ended(dataset.OpDone, nil)
	done.op.Kind = dataset.OpImport
	c.fake.outcome = api.Outcome{Operation: &done.op}
	ref := dataset.VersionRef{Repository: "offsite", Name: "db", Version: pushedVersion(2, 0, "db", 0).ID}
	c.fake.volumes[0].BasedOn = []dataset.VersionRef{ref}
}

// hasDamagedVersion: an entry of the repository cannot be read.
func hasDamagedVersion(c *console) {
	c.fake.versions.Problem = &dataset.Problem{Code: dataset.ErrCorrupt.Code, Message: "versions in offsite: the entry 5f1c09aa has bad tags"}
}

// pushedVersion returns version n of a name, which was pushed from volume db some time ago. The last one of a name is its
// newest, and version 1 has no data any more.
func pushedVersion(n, parent byte, name string, ago time.Duration) dataset.PushedVersion {
	id := func(n byte) (id uuid.UUID) {
		if n > 0 {
			id = uuid.UUID{0x5a, n, 6: 0x40, 8: 0x80}
		}
		return id
	}
	v := dataset.PushedVersion{
		ID: id(n), Repository: "offsite", Name: name, Parent: id(parent), Backup: strings.Repeat("1c09aa5f", 8),
		Taken: now.Add(-ago - time.Minute), Pushed: now.Add(-ago), Volume: "db", Dataset: idDB, Node: "host-a", By: "operator alice (admin)",
		Removed: n == 1, Newest: n > 1,
	}
	if v.Removed {
		v.Taken = time.Time{}
	}
	return v
}
