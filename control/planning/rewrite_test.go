package planning_test

import (
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// A rewrite is done by the volume's home and changes nothing on record. It is not started while the volume is being
// moved to another node.
func TestRewrite(t *testing.T) {
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	a.MustRegister("alpha")
	b.MustRegister("beta")
	d := *a.MustCommit(a.MustPlan(controltest.Create("db@silver"))).Dataset
	rewrite := api.Request{Kind: dataset.OpRewrite, Volume: "db"}
	op := a.MustPlan(rewrite)
	for range 2 {
		a.MustCommit(op)
	}
	v := e.MustVolume("db")
	if v.Epoch != d.Epoch || v.Size != d.Size || v.Home != d.Home {
		t.Errorf("on record is %+v", v)
	}
	e.MustSubmit(api.Request{Kind: dataset.OpMove, Volume: "db", Node: "beta"})
	a.MustRefusePlan(rewrite, dataset.ErrConflict, "being moved to another node")
	a.MustRefusePlan(api.Request{Kind: dataset.OpRewrite, Volume: "none"}, dataset.ErrNotFound, "no such volume")
}
