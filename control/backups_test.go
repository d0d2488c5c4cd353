package control_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/planning"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// replicaAt starts a control replica of a version.
func replicaAt(x *controltest.Replicas, name, version string) *control.Service {
	x.Helper()
	s, _ := control.Assemble(control.Deps{
		Store: x.Store, Clock: x.Clock, Version: version, Shared: true,
		Replica:  membership.Replica{Name: name, Address: name + ":9470"},
		Profiles: func() planning.Profiles { return x.Profiles },
	})
	x.Cleanup(s.Close)
	x.TakePart(s)
	return s
}

// addNightly adds the profile nightly, whose volumes are backed up every night.
func addNightly(x *controltest.Replicas) {
	p := x.Profiles.ByName["bronze"]
	p.Name, p.Revision = "nightly", "r1-nightly"
	p.Backup = dataset.Backups{To: "offsite", Schedule: "@daily"}
	x.Profiles.ByName[p.Name] = p
}

// A volume gets scheduled backups only if no older replica can use the store, because such a replica would drop them
// from the volume's record.
func TestBackupsAndOlderReplica(t *testing.T) {
	x := controltest.NewReplicas(t, 0)
	addNightly(x)
	e := x.On(replicaAt(x, "c1", "v1.5.0"))
	format := func() int {
		t.Helper()
		entry, err := x.Store.Get(t.Context(), record.FormatKey)
		if err != nil {
			t.Fatal(err)
		}
		var f record.StoreFormat
		if err := json.Unmarshal(entry.Value, &f); err != nil {
			t.Fatal(err)
		}
		return f.Format
	}
	controltest.AddRepository(e, "offsite")
	a := e.NewAgent("alpha")
	a.MustCreate("db")
	replicaAt(x, "c2", "v1.4.0")
	create := controltest.Create("new@nightly")
	_, err := a.Plan(a.Ctx, a.ID, create)
	controltest.Refused(t, err, dataset.ErrUnsupported, "volume new with scheduled backups: control replica c2 runs drover v1.4.0",
		"update all control replicas first")
	change := api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "nightly"}
	controltest.Refused(t, a.TrySubmit(change), dataset.ErrUnsupported, "set-profile of volume db with scheduled backups: control replica c2")
	if got := format(); got >= record.BackupFormat {
		t.Errorf("the refusals raised the format to %d", got)
	}
	live, err := x.Store.List(t.Context(), record.LiveServicesPrefix, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	x.Clock.Advance(time.Minute) // both sessions end
	for _, l := range live {
		x.AwaitEnd(l.Key)
	}
	x.TakePart(e.Service)
	e.MustSubmit(change)
	if got := format(); got != record.BackupFormat {
		t.Errorf("the store has format %d, want %d", got, record.BackupFormat)
	}
	replicaAt(x, "c2", "v1.6.0")
	if _, err := a.Plan(a.Ctx, a.ID, create); err != nil {
		t.Errorf("no older replica can use the store, and the create fails: %v", err)
	}
	p := x.Profiles.ByName["nightly"]
	p.Name, p.Backup.Verify = "verified", dataset.Verification{Every: dataset.Duration(time.Hour), Restore: true}
	x.Profiles.ByName[p.Name] = p
	change.Profile = "verified"
	controltest.Refused(t, a.TrySubmit(change), dataset.ErrUnsupported, "set-profile of volume db with scheduled verifications: control replica c2")
	// An earlier build recorded backups without the format.
	if _, err := x.Store.Txn(t.Context(), nil, []store.Write{{Key: record.FormatKey, Value: []byte(`{"format":2}`)}}); err != nil {
		t.Fatal(err)
	}
	protect := true
	for range 2 { // the first transaction notices that the format has changed
		_, err = e.Submit(e.Ctx, api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: &protect})
	}
	if got := format(); err != nil || got != record.BackupFormat {
		t.Errorf("after another change of the volume: the store has format %d, %v, want %d", got, err, record.BackupFormat)
	}
}

// A transaction that needs several formats gets the latest one, whatever the order.
func TestLatestNeededFormatCounts(t *testing.T) {
	for _, formats := range [][]int{{record.AliasFormat, record.BackupFormat}, {record.BackupFormat, record.AliasFormat}} {
		e := controltest.New(t)
		_, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
			for _, f := range formats {
				if err := record.NeedFormat(t, f); err != nil {
					return err
				}
			}
			return t.Put("test", 1)
		})
		if got := storeFormat(e); err != nil || got != record.BackupFormat {
			t.Errorf("%v: the store has format %d, %v, want %d", formats, got, err, record.BackupFormat)
		}
	}
}

// The record of a backup has the incarnation of the agent that gets it. It stays the same if that agent starts again: a
// later start must not believe that no earlier one has run the operation.
func TestBackupNamesTheStartOfItsAgent(t *testing.T) {
	e := controltest.New(t)
	controltest.AddRepository(e, "offsite")
	a := e.NewAgent("alpha")
	a.MustCreate("db")
	op := *e.MustSubmit(api.Request{ID: uuid.New(), Kind: dataset.OpBackup, Volume: "db"}).Operation
	first := a.Incarnation
	if op.Incarnation == uuid.Nil || op.Incarnation != first {
		t.Errorf("got %s, want %s", op.Incarnation, first)
	}
	a.Incarnation = uuid.New()
	a.MustRegister("alpha")
	if got := a.OpenOperations(); len(got) != 1 || got[0].ID != op.ID || got[0].Incarnation != first {
		t.Errorf("got %+v, want incarnation %s", got, first)
	}
}
