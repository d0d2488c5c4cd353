package control

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/dataset"
)

// A yield that is recorded after a report of the home was decided, and before the report is
// committed, refuses the report: what the home gave up it changes no more. The report and the yield
// write different keys, so only the check of the lease that the report read can tell.
func TestI1ReportBesideAYield(t *testing.T) {
	for _, kind := range []dataset.OpKind{
		dataset.OpSnapshot, dataset.OpSnapshotDelete, dataset.OpRestore, dataset.OpResize, dataset.OpDelete,
	} {
		t.Run(string(kind), func(t *testing.T) {
			e := newEnv(t)
			a, b := e.agent("alpha"), e.agent("beta")
			report := a.operations()[kind]
			move := *e.submit(moveTo("db", "beta")).Operation
			b.recalls(move)
			var before map[string]string
			e.spy.first(func() {
				if err := a.yields(move, gaveUp(move)); err != nil {
					t.Error(err)
				}
				before = e.dump()
			})
			_, err := a.Commit(a.ctx, a.id, a.report(report))
			refused(t, err, dataset.ErrConflict, "volume db is on its way to another node")
			if diff := cmp.Diff(before, e.dump()); diff != "" {
				t.Errorf("the report changed what was given up (-before +after):\n%s", diff)
			}
			e.check()
		})
	}
}
