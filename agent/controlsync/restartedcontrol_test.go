package controlsync_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
)

// A control that restarts with another store gets the status of every dataset: the report that the store is
// inconsistent arrives first, and must not be taken for the full report.
func TestRestartedControlWithOtherStoreGetsEveryStatus(t *testing.T) {
	r := agenttest.New(t)
	r.NewVolume("db")
	r.MustMount("db", "user")
	mounted := func() bool {
		st := r.Cluster.Recorded("db").Status
		return st != nil && st.Mounted
	}
	await := func() {
		t.Helper()
		agenttest.Await(t, func() bool {
			r.FakeClock.Advance(100 * time.Millisecond)
			return mounted()
		})
	}
	await()
	r.Link.ChangeSync(func(s *api.Sync) { s.Cluster = uuid.New() })
	r.RestartControl()
	if _, err := r.Follower.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.Trust.Err() == nil {
		t.Fatal("the other store is trusted")
	}
	if mounted() {
		t.Fatal("control knows a status that was not reported since its start")
	}
	await()
}
