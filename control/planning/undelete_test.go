package planning_test

import (
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// A volume that is restored from the trash counts for the policy of its pool again, so it is refused as a new volume of
// the same size would be.
func TestUndeleteObeysOvercommit(t *testing.T) {
	for name, c := range map[string]struct {
		size        string
		overcommit  float64
		provisioned dataset.Size // as the agent reports it after the deletion
		wait        time.Duration
		refused     bool
	}{
		"it fits":                     {"20GiB", 1, 80 * dataset.GiB, time.Minute, false},
		"it exceeds the policy":       {"20GiB", 1, 90 * dataset.GiB, time.Minute, true},
		"the pool has no policy":      {"20GiB", 0, 90 * dataset.GiB, time.Minute, false},
		"it has no size":              {"", 1, 100 * dataset.GiB, time.Minute, false},
		"the report counts it still":  {"60GiB", 1, 60 * dataset.GiB, 0, false},
		"others use it meanwhile too": {"60GiB", 1, 110 * dataset.GiB, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			e := controltest.New(t)
			a := e.NewAgent("alpha")
			req := controltest.Create("db@bronze") // a profile without a size
			if c.size != "" {
				req.Options = map[string]string{"size": c.size}
			}
			d := *a.MustDo(req).Dataset
			report := func() {
				a.ReportPool(dataset.PoolStatus{
					ID: d.Pool, Online: true, Size: 100 * dataset.GiB, Free: 90 * dataset.GiB, DefaultSize: 10 * dataset.GiB,
					Provisioned: c.provisioned, Overcommit: c.overcommit,
				})
			}
			report()
			e.Clock.Advance(time.Second)
			a.MustDelete("db")
			if c.wait > 0 {
				e.Clock.Advance(c.wait)
				report()
			}
			for _, dry := range []bool{true, false} {
				req := api.Request{Kind: dataset.OpUndelete, Volume: "db", Name: "back", DryRun: dry}
				if c.refused {
					_, err := e.Submit(e.Ctx, req)
					controltest.Refused(t, err, dataset.ErrUnsupported, "volume db", "overcommit of 1", "drover pool set")
				} else {
					e.MustSubmit(req)
				}
			}
			e.CheckInvariants()
		})
	}
}
