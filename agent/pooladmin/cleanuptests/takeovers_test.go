package cleanup_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
)

// A lost record that a dataset must be taken over on a share is repaired even if a job of a heartbeat with the key
// pulls is running.
func TestTakeOverIsRecordedWhilePullsRun(t *testing.T) {
	f := agenttest.NewCluster(t, "nfs", "nfs")
	d := f.A.NewVolume("db", nil)
	f.A.WriteFile("db", "token", "kept")
	f.Move("db", f.B)
	f.A.AwaitSettled(d.ID)
	agenttest.Await(t, func() bool { _, moves := f.B.MoveTable.Get(d.ID); return !moves })

	begun, released := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(released) })
	t.Cleanup(release)               // so that the agent can stop after a failure
	agenttest.Await(t, func() bool { // a job of a heartbeat may be running
		f.B.Jobs.Start("pulls", func(ctx context.Context, _ *host.Job) error {
			select {
			case <-begun: // this is a later run
			default:
				close(begun)
				<-released
			}
			return nil
		})
		select {
		case <-begun:
			return true
		default:
			return false
		}
	})
	old := filepath.Join("datasets", d.ID.String())
	err := os.Rename(filepath.Join(f.Share, f.B.NodeName, old), filepath.Join(f.Share, f.A.NodeName, old))
	if err == nil {
		err = f.A.Pool().WriteRecord(t.Context(), d, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.B.Cleaner.CleanUp(t.Context(), nil)
	agenttest.Await(t, func() bool { _, comes := f.B.MoveTable.Get(d.ID); return comes })
	release()
	if got := f.B.ReadFile("db", "token"); got != "kept" {
		t.Errorf("it has %q", got)
	}
}
