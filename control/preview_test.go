package control_test

import (
	"maps"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// A dry run has the outcome or the error of the request, and changes nothing in the store.
func TestDryRun(t *testing.T) {
	w := newPowersWorld(t)
	for _, c := range submissions() {
		if c.world != nil {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			before := contents(t, w)
			dry := c.req
			dry.ID, dry.DryRun = uuid.New(), true
			out, err := w.Submit(w.Ctx, dry)
			if err != nil || out.Operation == nil {
				t.Fatalf("%+v, %v", out, err)
			}
			if out.Operation.Kind != c.req.Kind || out.Operation.ID != dry.ID {
				t.Errorf("the operation is %+v", out.Operation)
			}
			if after := contents(t, w); !maps.Equal(before, after) {
				t.Error("it changed the store")
			}
			if _, err := w.Operation(w.Ctx, dry.ID.String(), 0); dataset.KindOf(err) != dataset.ErrNotFound {
				t.Errorf("its operation: %v", err)
			}
		})
	}
	for name, req := range map[string]api.Request{
		"unknown volume": {Kind: dataset.OpDelete, Volume: "nobody"},
		"protected":      {Kind: dataset.OpDelete, Volume: "kept"},
		"unknown node":   controltest.Move("mine", "nowhere"),
		"no such trash":  {Kind: dataset.OpPurge, Volume: "mine"},
	} {
		dry := req
		dry.DryRun = true
		_, want := w.Submit(w.Ctx, req)
		if _, err := w.Submit(w.Ctx, dry); err == nil || want == nil || err.Error() != want.Error() {
			t.Errorf("%s: the dry run says %v, the request %v", name, err, want)
		}
	}
}

// contents returns the indexes of all keys of the store.
func contents(t *testing.T, w *powersCluster) map[string]uint64 {
	t.Helper()
	entries, err := w.Ledger.Store.List(t.Context(), "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]uint64{}
	for _, e := range entries {
		all[e.Key] = e.Index
	}
	return all
}

// A volume that its home reports as mounted is not deleted, restored or moved, so the dry run is refused, too.
func TestDryRunOfVolumeInUse(t *testing.T) {
	w := newPowersWorld(t)
	before := w.MustVolume("mine")
	report := func(mounts ...dataset.Mount) {
		t.Helper()
		if err := w.Heartbeat(w.Ctx, w.alpha.ID, api.Heartbeat{Incarnation: w.alpha.Incarnation, Datasets: []dataset.DatasetStatus{
			{ID: before.ID, Mounted: len(mounts) > 0, Mounts: mounts},
		}}); err != nil {
			t.Fatal(err)
		}
	}
	requests := []api.Request{
		{Kind: dataset.OpDelete, Volume: "mine", DryRun: true},
		{Kind: dataset.OpRestore, Volume: "mine", Snapshot: "before", DryRun: true},
		{Kind: dataset.OpMove, Volume: "mine", Node: "gamma", DryRun: true},
		{Kind: dataset.OpMove, Volume: "mine", DryRun: true}, // as a drain asks for it
	}
	report(dataset.Mount{ID: "x", Count: 1})
	for _, req := range requests {
		_, err := w.Submit(w.Ctx, req)
		controltest.Refused(t, err, dataset.ErrInUse, "volume mine", "mounted on node alpha")
	}
	report()
	for _, req := range requests {
		if out, err := w.Submit(w.Ctx, req); err != nil || out.Volume == nil {
			t.Errorf("%s: %+v, %v", req.Kind, out, err)
		}
	}
}
