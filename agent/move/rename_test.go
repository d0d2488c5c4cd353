package move_test

import (
	"slices"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A volume is renamed while a move of it waits for its users. The move continues. Then the new home and the record
// beside the data have the new name and the alias. Both names bring it back.
func TestRenameDuringMove(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "dir", "dir")
	d := f.A.NewVolume("old")
	f.A.WriteFile("old", "token", "of a")
	f.A.MustMount("old", "job")
	op := f.BeginMove("old", f.B)
	agenttest.Await(t, func() bool { _, asked := f.A.Leases.Recall(d.ID); return asked })
	f.Submit(api.Request{Kind: dataset.OpRename, Volume: "old", Name: "new"})
	f.A.MustUnmount("old", "job")
	if op = f.AwaitEnd(op); op.State != dataset.OpDone {
		t.Fatalf("the move: %s: %+v", op.State, op.Problem)
	}
	wantNames := func(h *agenttest.Host) {
		t.Helper()
		v := f.Recorded("old")
		if v.ID != d.ID || v.Home != h.Node() || v.Volume != "new" || !slices.Equal(v.Aliases, []string{"old"}) {
			t.Errorf("the volume is %+v, want it on %s with both names", v.Dataset, h.NodeName)
		}
		agenttest.Await(t, func() bool { // the record beside the data is written in the background
			e, err := h.Pool().Stat(t.Context(), d.ID)
			return err == nil && e.Record != nil && e.Record.Volume == "new" && e.Record.HasName("old")
		})
	}
	wantNames(f.B)
	f.B.WantFile("new", "token", "of a")
	f.B.WriteFile("old", "token", "of b")
	f.A.WantFile("old", "token", "of b") // the mount moves the volume
	wantNames(f.A)
	f.B.WantFile("new", "token", "of b")
	wantNames(f.B)
}
