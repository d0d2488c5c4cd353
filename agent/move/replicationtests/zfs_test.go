package replication_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/long"
)

// A replica on a zpool follows the writes, and the volume continues from it if the home is lost.
func TestReplicaOnZFS(t *testing.T) {
	long.Only(t)
	f := agenttest.NewCluster(t, "zfs", "zfs")
	f.MayFailWith = "requires replicas on more nodes" // once its home was superseded
	d := f.A.NewVolume("db", map[string]string{"size": "64MiB", "profile": "safe"})
	for _, text := range []string{"one", "two"} {
		f.A.WriteFile("db", "token", text)
		written := time.Now()
		agenttest.Await(t, func() bool { return f.ReplicaHasSince(f.B, "db", written) })
	}
	f.A.Stop()
	out, err := f.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", Node: "host-b", Force: true, Fenced: "host-a"})
	if err != nil {
		t.Fatal(err)
	}
	if op := f.AwaitEnd(*out.Operation); op.State != dataset.OpDone {
		t.Fatalf("%s: %+v, %+v", op.State, op.Problem, op.Loss)
	}
	f.B.WantFile("db", "token", "two")
	f.A.Start()
	f.A.AwaitSettled(d.ID)
}
