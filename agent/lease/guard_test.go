package lease_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// An agent knows whether its guard answers. Doctor reports it if not, and says what to do.
func TestDoctorReportsWhetherGuardAnswers(t *testing.T) {
	t.Parallel()
	w := agenttest.NewGuard(t, time.Second)
	f := &agenttest.Cluster{T: t}
	f.StartControl()
	f.A = f.AddHost("host-a", "dir")
	f.A.Config.Guard = w
	t.Cleanup(f.Close)
	f.A.Start()
	doctor := func(level, text string) {
		t.Helper()
		list, err := f.A.Doctor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range list {
			if l.Subject == "guard" && l.Level == level && strings.Contains(l.Text+l.Fix, text) {
				return
			}
		}
		t.Errorf("doctor says nothing %s of the guard with %q: %+v", level, text, list)
	}
	guarded := f.A.Leases.Registrar.IsAnswering
	agenttest.Await(t, guarded)
	doctor(host.OK, "can fence 0 datasets")
	w.Stop()
	agenttest.Await(t, func() bool { return !guarded() })
	doctor(host.Info, lease.StartGuard)
	d := dataset.Dataset{ID: uuid.New(), Volume: "db", Profile: dataset.Profile{Failover: dataset.Failover{Auto: true}}}
	f.A.Cache.SetCopy(d.ID, &api.AssignedCopy{Copy: dataset.Copy{Dataset: d.ID, Kind: dataset.CopyReplica}, Record: &d})
	doctor(host.Error, "1 of them have their home or a copy here")
	f.A.Cache.SetCopy(d.ID, nil)
	w.Start()
	agenttest.Await(t, guarded)
}
