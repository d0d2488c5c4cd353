package housekeeping_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// A volume that was recovered from the backup of another cluster, and is kept apart, makes no scheduled backups into the
// repository that it came from. That is reported until somebody decides: the volume takes over, or gets a profile with
// another repository.
func TestKeptApartVolumeMakesNoScheduledBackups(t *testing.T) {
	e := controltest.New(t)
	p := e.ProfileSet.ByName["silver"]
	p.Name, p.Revision = "daily", "r1-daily"
	p.Backup = dataset.Backups{To: "offsite", Schedule: "@daily"}
	e.ProfileSet.ByName[p.Name] = p
	p.Name, p.Revision, p.Backup.To = "elsewhere", "r1-elsewhere", "nas"
	e.ProfileSet.ByName[p.Name] = p
	controltest.AddRepository(e, "offsite")
	controltest.AddRepository(e, "nas")
	a := e.NewAgent("alpha")
	other := uuid.New()
	for _, name := range []string{"db", "web"} {
		a.MustDo(api.Request{
			Kind: dataset.OpImport, Volume: name + "@daily", Repository: "offsite", Backup: strings.Repeat("b", 64),
			KeptApart: other,
		})
	}
	backups := func() (volumes []string) {
		t.Helper()
		for range 30 {
			e.AdvanceAndRun(time.Hour)
			for _, op := range a.OpenOperations() {
				volumes = append(volumes, op.Volume+" to "+op.Repository)
				finishBackup(a, op)
			}
		}
		return volumes
	}
	if list := backups(); len(list) > 0 {
		t.Errorf("backups: %q", list)
	}
	for _, when := range []string{"seen", "read from the records"} {
		for _, name := range []string{"db", "web"} {
			want := "warning volume " + name + ": it was recovered from a backup of cluster " + other.String()[:8]
			if got := volumeFindings(e); !strings.Contains(got, want) || !strings.Contains(got, "--take-over") {
				t.Errorf("%s: got %q, want %q", when, got, want)
			}
		}
		e.Restart()
	}
	e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", TakeOver: true})
	e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "web", Profile: "elsewhere"})
	if v := e.MustVolume("db"); v.KeptApart != nil {
		t.Errorf("after --take-over: %+v", v.KeptApart)
	}
	list := strings.Join(backups(), ", ")
	if !strings.Contains(list, "db to offsite") || !strings.Contains(list, "web to nas") {
		t.Errorf("after the decision: %s", list)
	}
	if got := volumeFindings(e); got != "" {
		t.Errorf("after the decision: %q", got)
	}
	e.CheckInvariants()
}
