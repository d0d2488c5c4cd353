package reports_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
)

// What a node reports of itself is bounded. Anything above a bound is refused, and the error has the bound.
func TestHeartbeatsAreBounded(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	long := strings.Repeat("x", dataset.MaxLine+1)
	for want, h := range map[string]api.Heartbeat{
		"257 pools (256 at most)":                                         {Pools: make([]dataset.PoolStatus, 200), FailedPools: make([]api.Pool, 57)},
		"20001 datasets (20000 at most)":                                  {Datasets: make([]dataset.DatasetStatus, 20_001)},
		"20001 copies (20000 at most)":                                    {Copies: make([]dataset.Copy, 20_001)},
		"the problem of its copy of dataset 0":                            {Copies: []dataset.Copy{{Problem: long}}},
		"20001 operations (20000 at most)":                                {Operations: make([]dataset.Operation, 20_001)},
		"the reason why it does not trust the store takes 4097":           {StoreDoubt: long},
		"the reason for the state of pool " + a.LocalPools[0].ID.String(): {Pools: []dataset.PoolStatus{{ID: a.LocalPools[0].ID, Reason: long}}},
		"the reason for the state of pool  takes 4097":                    {FailedPools: []api.Pool{{Status: &dataset.PoolStatus{Reason: long}}}},
		"the path of dataset ":                                            {Datasets: []dataset.DatasetStatus{{MountPath: long}}},
		"the problem of dataset ":                                         {Datasets: []dataset.DatasetStatus{{Problem: long}}},
		"10001 mount IDs of dataset ":                                     {Datasets: []dataset.DatasetStatus{{Mounts: make([]dataset.Mount, 10_001)}}},
		"a mount ID of 257 bytes (256 at most)":                           {Datasets: []dataset.DatasetStatus{{Mounts: []dataset.Mount{{ID: strings.Repeat("a", 257)}}}}},
		"101 names of dataset ":                                           {Datasets: []dataset.DatasetStatus{{Mounts: []dataset.Mount{{Names: make([]string, 101)}}}}},
		"101 names of dataset 0":                                          {Datasets: []dataset.DatasetStatus{{EngineAliases: make([]string, 101)}}},
		"a name of dataset ":                                              {Datasets: []dataset.DatasetStatus{{EngineAliases: []string{long}}}},
	} {
		h.Incarnation = a.Incarnation
		before := e.Dump()
		controltest.Refused(t, e.Heartbeat(e.Ctx, a.ID, h), dataset.ErrInvalid, "alpha", want)
		if diff := cmp.Diff(before, e.Dump()); diff != "" {
			t.Error(diff)
		}
	}
}

// What is remembered of a node is bounded, however many heartbeats it sends, and is only what that node reported: no
// node can displace what another one reports.
func TestSeenIsBounded(t *testing.T) {
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	d := a.MustCreate("db")
	say := func(of *controltest.Agent, whole bool, list ...dataset.DatasetStatus) error {
		return e.Heartbeat(e.Ctx, of.ID, api.Heartbeat{Incarnation: of.Incarnation, Datasets: list, Incremental: whole})
	}
	is := dataset.DatasetStatus{ID: d.ID, Mounted: true}
	if err := say(a, true, is); err != nil {
		t.Fatal(err)
	}
	if err := say(b, true, dataset.DatasetStatus{ID: d.ID, Problem: "lies"}); err != nil {
		t.Fatal(err)
	}
	if v := e.MustVolume("db"); v.Status == nil || !v.Status.Mounted {
		t.Errorf("%+v", v.Status)
	}
	fill := func(whole bool) (err error) {
		for n := 0; n <= reports.MaxRemembered && err == nil; n += reports.MaxReported {
			list := make([]dataset.DatasetStatus, reports.MaxReported)
			for i := range list {
				list[i].ID = uuid.New()
			}
			err = say(b, whole, list...)
		}
		return err
	}
	controltest.Refused(t, fill(true), dataset.ErrConflict, "beta", "datasets to remember (200000 at most): a full report is needed")
	controltest.Refused(t, fill(false), dataset.ErrInvalid, "beta", "datasets to remember (200000 at most)")
	if err := say(a, true, is); err != nil {
		t.Error("others are refused as well:", err)
	}
	// Reports about datasets that are not on record are forgotten when somebody reads the reports.
	if err := say(b, true, dataset.DatasetStatus{ID: uuid.New()}); err != nil {
		t.Error(err)
	}
	if seen, err := e.SeenVolumes(e.Ctx); err != nil || len(seen) != 1 || len(e.Reports.Datasets()) != 1 {
		t.Errorf("%d seen, %v, %d remembered", len(seen), err, len(e.Reports.Datasets()))
	}
}
