package housekeeping_test

import (
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// A backup ends although the record of the scheduled backups is damaged, or that of the dataset. Otherwise its agent
// would report it for ever. An event names the damaged record.
func TestBackupEndsBesideDamagedRecord(t *testing.T) {
	for name, c := range map[string]struct {
		damaged   func(dataset.Dataset) string
		scheduled bool
		end       func(*controltest.Agent, dataset.Operation)
		want      dataset.OpState
	}{
		"manual": {
			damaged: func(d dataset.Dataset) string { return record.BackupsKey(d.ID) },
			end:     func(a *controltest.Agent, op dataset.Operation) { finishBackup(a, op) }, want: dataset.OpDone,
		},
		"manual, failed": {
			damaged: func(d dataset.Dataset) string { return record.DatasetKey(d.ID) },
			end:     failBackup, want: dataset.OpFailed,
		},
		"scheduled": {
			damaged:   func(d dataset.Dataset) string { return record.BackupsKey(d.ID) },
			scheduled: true,
			end:       func(a *controltest.Agent, op dataset.Operation) { finishBackup(a, op) }, want: dataset.OpDone,
		},
		"scheduled, failed": {
			damaged:   func(d dataset.Dataset) string { return record.BackupsKey(d.ID) },
			scheduled: true, end: failBackup, want: dataset.OpFailed,
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := controltest.New(t)
			hourly(e)
			a := e.NewAgent("alpha")
			d := a.MustCreate("db@hourly")
			if c.scheduled {
				e.AdvanceAndRun(time.Hour + 15*time.Minute)
			} else {
				e.MustSubmit(api.Request{Kind: dataset.OpBackup, Volume: "db", Repository: "offsite"})
			}
			op := a.OpenOperations()[0]
			key := c.damaged(d)
			if _, err := e.Spy.Txn(e.Ctx, nil, spoilt(key, "garbage")); err != nil {
				t.Fatal(err)
			}
			c.end(a, op)
			if now := e.MustOperation(op.ID); now.State != c.want || (now.Backup == "") == (c.want == dataset.OpDone) {
				t.Errorf("got %+v, want %s", now, c.want)
			}
			named := false
			err := e.Events(e.Ctx, 0, false, func(ev api.Event) error {
				named = named || ev.Type == api.EventOperationFail && strings.Contains(ev.Detail, key)
				return nil
			})
			if err != nil || named == (name == "manual, failed") { // this failure changes no other record
				t.Errorf("an event names the damaged record: %t, %v", named, err)
			}
		})
	}
}
