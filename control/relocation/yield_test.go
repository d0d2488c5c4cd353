package relocation_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// A report of the home is decided, and a yield is recorded before the report is committed. The report is refused, so
// that it does not change what the home has yielded. The report and the yield write different keys, so only the check
// of the lease that the report read can notice the yield.
func TestI1ReportBesideAYield(t *testing.T) {
	for _, kind := range []dataset.OpKind{
		dataset.OpSnapshot, dataset.OpSnapshotDelete, dataset.OpRestore, dataset.OpResize, dataset.OpDelete,
	} {
		t.Run(string(kind), func(t *testing.T) {
			e := controltest.New(t)
			a, b := e.NewAgent("alpha"), e.NewAgent("beta")
			report := a.PlanEachKind()[kind]
			move := *e.MustSubmit(controltest.Move("db", "beta")).Operation
			b.MustRecall(move)
			var before map[string]string
			e.Spy.Before(func() {
				if err := a.TryYield(move, controltest.Relinquished(move)); err != nil {
					t.Error(err)
				}
				before = e.Dump()
			})
			_, err := a.Commit(a.Ctx, a.ID, a.ReportOf(report))
			controltest.Refused(t, err, dataset.ErrConflict, "volume db is being moved to another node")
			if diff := cmp.Diff(before, e.Dump()); diff != "" {
				t.Errorf("the report changed what was yielded (-before +after):\n%s", diff)
			}
			e.CheckInvariants()
		})
	}
}
