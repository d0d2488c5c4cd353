package recovery_test

import (
	"strings"
	"testing"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// Each way to notice that a store was restored from an older backup is tested alone: by the service that made a
// missing change, and by another one that had learned of the change. Nobody tells them.
func TestServicesSeeTheStoreGoBack(t *testing.T) {
	for name, sees := range map[string]func(x *controltest.Replicas, n *controltest.Agent) error{
		"its own change is missing": func(x *controltest.Replicas, n *controltest.Agent) error {
			_, err := x.Services[0].Submit(x.Context(), controltest.Create("late"))
			return err
		},
		"it had heard of it": func(x *controltest.Replicas, n *controltest.Agent) error {
			var h record.LanePositions
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
			var h record.LanePositions
			require.NoError(t, x.Services[1].Ledger.ReadNotices(t.Context(), &h))
			x.RestoreStore(saved)
			controltest.Refused(t, sees(x, n), dataset.ErrConflict, "changes "+
				"suspended", "restored from a backup", "drover store recover")
			if !x.Halted() {
				t.Error("no other service is told")
			}
			// It is on record. A service that was started since, and saw no restore itself, obeys it.
			later, _ := control.Assemble(x.Services[0].Deps)
			t.Cleanup(later.Close)
			_, err := later.Submit(t.Context(), controltest.Create("later"))
			controltest.Refused(t, err, dataset.ErrConflict, "changes suspended")
			if got, err := later.Sync(t.Context(), n.ID, 0, 0); err != nil || !strings.Contains(got.Halted, "restored from a backup") {
				t.Errorf("an agent that noticed nothing is not told: %+v, %v", got, err)
			}
			// That nodes trust the store does not end it, since it may be that none of their own records is missing.
			n.Service = later
			n.ReportDistrust("it is older")
			n.ReportDistrust("")
			if !x.Halted() {
				t.Error("a node's report ended what a service has noticed")
			}
		})
	}
}
