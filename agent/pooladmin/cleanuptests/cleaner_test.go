// Package cleanup_test tests the cleanup part of package pooladmin. It is a folder of its own, so that it runs beside the other tests.
package cleanup_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// The data that an abandoned move transferred is kept for another attempt, named by doctor, and removed when its
// retention time is over. It is never removed while a move may need it, nor is a dataset whose home is this node.
func TestTransferOfAbandonedMoveIsKeptThenRemoved(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.A.MustMount("db", "user")
	if op := f.AwaitEnd(f.BeginMove("db", f.B)); op.State != dataset.OpFailed {
		t.Fatalf("%s", op.State)
	}
	agenttest.Await(t, func() bool { return !f.B.MoveTable.IsActive(d.ID) })
	there := func() bool {
		e, err := f.B.Pool().Stat(t.Context(), d.ID)
		if err != nil && !errors.Is(err, dataset.ErrNotFound) {
			t.Fatal(err)
		}
		return err == nil && e.State == backends.EntryCopy
	}
	f.B.ResumeMoves(t.Context())
	if !there() {
		t.Error("the transferred data was removed at once")
	}
	list, err := f.B.Doctor(t.Context())
	require.NoError(t, err)
	for _, l := range list {
		if (l.Level == api.LevelWarning || l.Level == api.LevelError) && !strings.Contains(l.Text, "its data is in memory") {
			t.Errorf("doctor: %+v", l)
		}
	}
	p, known := f.B.MoveTable.Get(d.ID)
	if !known {
		t.Fatal("the transferred data is not recorded")
	}
	if _, err := f.B.Collect(t.Context(), d.ID, false); !errors.Is(err, dataset.ErrExists) {
		t.Errorf("it is collected: %v", err)
	}
	p.Since = time.Now().Add(-move.KeepFailed)
	require.NoError(t, f.B.MoveTable.Set(t.Context(), d.ID, p))
	f.B.ResumeMoves(t.Context())
	if _, known := f.B.MoveTable.Get(d.ID); known || there() {
		t.Error("the data of the abandoned move stays")
	}
	f.A.MustUnmount("db", "user")
	f.Move("db", f.B)
	f.B.ResumeMoves(t.Context())
	f.B.MustMount("db", "user")
	f.B.MustUnmount("db", "user")
}

// The data that an abandoned move transferred is removed with the volume.
func TestTransferOfAbandonedMoveGoesWithDeletedVolume(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.A.MustMount("db", "user")
	if op := f.AwaitEnd(f.BeginMove("db", f.B)); op.State != dataset.OpFailed {
		t.Fatalf("%s", op.State)
	}
	// Both know that the move has ended.
	agenttest.Await(t, func() bool { return f.A.WouldOpen(d.ID) && !f.B.MoveTable.IsActive(d.ID) })
	f.A.MustUnmount("db", "user")
	require.NoError(t, f.A.Remove(t.Context(), "db"))
	agenttest.Await(t, func() bool {
		_, err := f.B.Pool().Stat(t.Context(), d.ID)
		return errors.Is(err, dataset.ErrNotFound)
	})
}

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
	require.NoError(t, err)
	f.B.Cleaner.CleanUp(t.Context(), nil)
	agenttest.Await(t, func() bool { _, comes := f.B.MoveTable.Get(d.ID); return comes })
	release()
	if got := f.B.ReadFile("db", "token"); got != "kept" {
		t.Errorf("it has %q", got)
	}
}

func TestMain(m *testing.M) { agenttest.Main(m) }
