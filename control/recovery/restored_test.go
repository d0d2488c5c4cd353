package recovery_test

import (
	"strings"
	"testing"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/ledger"
	"github.com/droverhq/drover/dataset"
)

// Each way in which a store that went back is seen, alone: by the service that made the
// change which is missing, by another that had heard of it, with nobody to say it.
func TestServicesSeeTheStoreGoBack(t *testing.T) {
	for name, sees := range map[string]func(x *controltest.Replicas, n *controltest.Agent) error{
		"its own change is missing": func(x *controltest.Replicas, n *controltest.Agent) error {
			_, err := x.Services[0].Submit(x.Context(), controltest.Create("late"))
			return err
		},
		"it had heard of it": func(x *controltest.Replicas, n *controltest.Agent) error {
			var h ledger.LanePositions
			if err := x.Services[1].Ledger.ReadNotices(x.Context(), &h); err != nil {
				return err
			}
			_, err := x.Services[1].Submit(x.Context(), controltest.Create("late"))
			return err
		},
		"an agent asks for all": func(x *controltest.Replicas, n *controltest.Agent) error {
			if _, err := x.Services[1].Sync(x.Context(), n.ID, 0, 0); err != nil {
				return err
			}
			_, err := x.Services[1].Submit(x.Context(), controltest.Create("late"))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			x := controltest.NewReplicas(t, 2)
			n := x.On(x.Services[0]).NewAgent("n1")
			n.MustCreate("before")
			saved := x.Save()
			n.MustCreate("since")
			var h ledger.LanePositions
			if err := x.Services[1].Ledger.ReadNotices(t.Context(), &h); err != nil {
				t.Fatal(err)
			}
			x.RestoreStore(saved)
			controltest.Refused(t, sees(x, n), dataset.ErrConflict, "changes "+
				"suspended", "restored from a backup", "drover store recover")
			if !x.Halted() {
				t.Error("nobody else is told")
			}
			// It is on record: one that was started since, which saw nothing go back, heeds it.
			later, _ := control.Assemble(x.Services[0].Deps)
			t.Cleanup(later.Close)
			_, err := later.Submit(t.Context(), controltest.Create("later"))
			controltest.Refused(t, err, dataset.ErrConflict, "changes suspended")
			if got, err := later.Sync(t.Context(), n.ID, 0, 0); err != nil || !strings.Contains(got.Halted, "restored from a backup") {
				t.Errorf("an agent that saw nothing is not told: %+v, %v", got, err)
			}
			// That nodes believe the store ends nothing: they may lack nothing of their own.
			n.Service = later
			n.ReportDistrust("it is older")
			n.ReportDistrust("")
			if !x.Halted() {
				t.Error("the word of a node ended what a service saw")
			}
		})
	}
}
