package move_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
)

// If only the disk of a home fails, its volume does not continue elsewhere without an operator, and a move is refused
// with the reason. An operator can force it to continue from another node's copy, once Drover is stopped on the home.
// After that Drover can start on the home again, and serves its other pools.
func TestMoveFromAFailingDisk(t *testing.T) {
	t.Parallel()
	// Control is one of several replicas: it knows which nodes are alive.
	f := &agenttest.Cluster{T: t, Session: 5 * time.Second}
	f.StartControl()
	f.A, f.B = f.AddHost("host-a", "loop"), f.AddHost("host-b", "loop")
	t.Cleanup(f.Close)
	disk := scratch.Mount(t, "xfs", 2<<30)
	f.A.Config.Pools = []pool.Config{
		{Name: "default", Backend: "loop", Path: filepath.Join(disk, "pool")},
		{Name: "near", Backend: "dir", Path: filepath.Join(t.TempDir(), "near")},
	}
	f.A.Start()
	f.B.Start()
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB", "pool": "default"})
	f.A.NewVolume("near", map[string]string{"pool": "near"})
	f.A.WriteFile("db", "token", "before")
	f.Move("db", f.B)
	f.A.AwaitSettled(d.ID)
	f.Move("db", f.A) // this leaves a copy there
	f.B.AwaitSettled(d.ID)
	f.A.WriteFile("db", "token", "after")

	scratch.ShutDown(t, disk)
	if _, err := f.A.Mount(t.Context(), "db", "refused"); err == nil || !strings.Contains(err.Error(), "input/output error") {
		t.Errorf("a mount: %v", err)
	}
	if op := f.AwaitEnd(f.BeginMove("db", f.B)); op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, "its disk fails") {
		t.Errorf("a move: %s, %+v", op.State, op.Problem)
	}
	force := func() (api.Outcome, error) {
		return f.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", Node: "host-b", Force: true, Fenced: "host-a"})
	}
	if _, err := force(); !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "is alive") {
		t.Errorf("by force while its home is alive: %v", err)
	}
	f.A.Stop()
	var out api.Outcome
	agenttest.Await(t, func() bool { // until control knows that the node is down
		var err error
		if out, err = force(); err != nil && !strings.Contains(err.Error(), "is alive") {
			t.Fatal(err)
		}
		return err == nil
	})
	if op := f.AwaitEnd(*out.Operation); op.State != dataset.OpDone {
		t.Fatalf("by force: %+v", op.Problem)
	}
	f.B.WantFile("db", "token", "before")
	f.A.Start()
	f.A.WriteFile("near", "token", "served")
	f.A.WantFile("near", "token", "served")
}
