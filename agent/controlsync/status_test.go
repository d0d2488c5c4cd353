package controlsync_test

import (
	"strings"
	"testing"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
)

// When a start has ended control knows the status of each volume: none is unknown.
func TestStatusIsKnownAfterStart(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.NewVolume("idle")
	r.MountDataset(d, "id")
	r.Stop()
	r.RestartControl() // a restarted control has lost the reported statuses
	r.Start()
	list, err := r.Control.Volumes(t.Context(), api.Page{})
	if err != nil || len(list.Items) != 2 {
		t.Fatal(list, err)
	}
	for _, v := range list.Items {
		if v.Status == nil || v.Status.Mounted != (v.Volume == "db") {
			t.Errorf("volume %s: %+v", v.Volume, v.Status)
		}
	}
	if err := r.Unmount(t.Context(), "db", "id"); err != nil {
		t.Error(err)
	}
}

// A volume that nobody uses and that cannot be opened is reported until it can be opened.
func TestStatusOfUnopenableVolumeIsReported(t *testing.T) {
	f := &agenttest.FailingBackend{}
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(f) })
	r.NewVolume("db")
	told := func(what string) {
		t.Helper()
		agenttest.Await(t, func() bool {
			r.FakeClock.Advance(r.Timing.Heartbeat)
			v, err := r.Control.Volume(t.Context(), "db")
			return err == nil && v.Status != nil && (v.Status.Problem == "") == (what == "") && strings.Contains(v.Status.Problem, what)
		})
	}
	f.Offline.Store(true)
	r.Restart()
	told("its disk is gone")
	f.Offline.Store(false)
	told("")
}

// A create does not wait for another question to its pool: concurrent creates would reach the store one by one.
func TestCreateDoesNotWaitForQuestionToPool(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "dir")
	pool := f.A.NewVolume("first").Pool
	asked, answer, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- f.A.Pools.Ask(t.Context(), pool, func(backends.Pool) { close(asked); <-answer })
	}()
	<-asked
	d := f.A.NewVolume("db")
	v, err := f.Service.Volume(t.Context(), "db")
	if err != nil || v.Status == nil || v.Status.ID != d.ID {
		t.Errorf("the status after the create is %+v, %v; want that of the new dataset", v.Status, err)
	}
	close(answer)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
