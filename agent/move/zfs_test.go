package move_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A volume on a zpool moves to another node and back, with its snapshots and data, and the data that it left behind
// is not a head.
func TestMoveOnZFS(t *testing.T) {
	f := agenttest.NewCluster(t, "zfs", "zfs")
	d := f.A.NewVolume("db", map[string]string{"size": "64MiB"})
	f.A.WriteFile("db", "token", "first")
	if err := f.A.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "mine"}); err != nil {
		t.Fatal(err)
	}
	f.A.WriteFile("db", "token", "second")
	for i, to := range []*agenttest.Host{f.B, f.A} {
		f.Move("db", to)
		if v := f.Recorded("db"); v.Home != to.Node() || v.Epoch != uint64(2+i) || v.Move != uuid.Nil || len(v.Copies) != 1 {
			t.Errorf("on record: %+v", v)
		}
		f.Other(to).AwaitSettled(d.ID)
		to.WantFile("db", "token", "second")
		if e, err := to.Pool().Stat(t.Context(), d.ID); err != nil || e.State != backends.EntryReady || e.Problem != "" || e.Record.Home != to.Node() {
			t.Errorf("%+v, %v", e, err)
		}
		to.WriteFile("db", "token", "second")
	}
	if err := f.A.Perform(t.Context(), api.Request{Kind: dataset.OpRestore, Volume: "db", Snapshot: "mine"}); err != nil {
		t.Fatal(err)
	}
	f.A.WantFile("db", "token", "first")
}
