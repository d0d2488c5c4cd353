package control_test

import (
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/controltest"
)

// Every control replica reports late backups, also one that does not do the background work, and one that does it since
// the other has ended.
func TestAllReplicasReportLateBackups(t *testing.T) {
	x := controltest.NewReplicas(t, 0)
	addNightly(x)
	first, second := replicaAt(x, "c1", "v1.5.0"), replicaAt(x, "c2", "v1.5.0")
	e := x.On(first)
	controltest.AddRepository(e, "offsite")
	a := e.NewAgent("alpha")
	a.MustCreate("db@nightly")
	a.MustCreate("gone@nightly")
	a.MustCreate("plain@silver")
	a.MustDelete("gone")
	find := func(s *control.Service) string {
		t.Helper()
		h, err := s.ClusterHealth(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var texts []string
		for _, f := range h.Findings {
			if strings.HasPrefix(f.Subject, "volume ") || strings.Contains(f.Text, "backup") {
				texts = append(texts, f.Level+" "+f.Subject+": "+f.Text)
			}
		}
		return strings.Join(texts, "\n")
	}
	same := func(when, part string) {
		t.Helper()
		got, other := find(first), find(second)
		if got != other || !strings.Contains(got, part) || (part == "") != (got == "") {
			t.Errorf("%s: the replica that does the work reports %q, and the other %q; want %q", when, got, other, part)
		}
	}
	e.Round()
	same("a new volume", "")
	e.AdvanceAndRun(30 * time.Hour)
	same("after a missed night", "warning volume db: its scheduled backup is ")
	if err := e.RemoveRepository(e.Ctx, "offsite", true); err != nil {
		t.Fatal(err)
	}
	e.AdvanceAndRun(2 * time.Minute)
	same("without the repository", "its profile has it backed up to repository offsite, which is not recorded")
	x.On(second).Round()
	same("after both did the work", "its profile has it backed up to repository offsite, which is not recorded")
}
