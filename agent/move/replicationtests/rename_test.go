package replication_test

import (
	"testing"
	"time"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// After a rename, the node with a replica has the new name and the alias, also in the record beside its data.
func TestReplicaHasNamesAfterRename(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("old", map[string]string{"size": "320MiB", "profile": "safe"})
	f.A.WriteFile("old", "token", "one")
	written := time.Now()
	agenttest.Await(t, func() bool { return f.ReplicaHasSince(f.B, "old", written) })
	f.Submit(api.Request{Kind: dataset.OpRename, Volume: "old", Name: "new"})
	agenttest.Await(t, func() bool { k, _ := f.B.Cache.Copy(d.ID); return k.Record != nil && k.Record.HasName("new") })
	agenttest.Await(t, func() bool {
		e, err := f.B.Pool().Stat(t.Context(), d.ID)
		return err == nil && e.Record.Volume == "new" && e.Record.HasName("old") && e.Record.Epoch == d.Epoch
	})
	f.Submit(api.Request{Kind: dataset.OpDropAlias, Volume: "new", Name: "old"})
	agenttest.Await(t, func() bool {
		e, err := f.B.Pool().Stat(t.Context(), d.ID)
		return err == nil && e.Record.Volume == "new" && !e.Record.HasName("old")
	})
	f.B.Restart()
	f.A.WriteFile("new", "token", "two")
	written = time.Now()
	agenttest.Await(t, func() bool { return f.ReplicaHasSince(f.B, "new", written) })
}
