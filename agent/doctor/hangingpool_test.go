package doctor_test

import (
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
)

// The disk of a pool hangs while doctor lists it: further examinations, at the same time and later, do not ask it
// again, and say that it hangs. Once it answers, it is examined again.
func TestDoctorOfHangingPool(t *testing.T) {
	h := &agenttest.HangingBackend{}
	r := agenttest.New(t, func(c *agent.Config) {
		c.Backends = backends.NewRegistry(h)
		c.Pools = append(c.Pools, pool.Config{Name: "other", Backend: "dir", Path: filepath.Join(c.Root, "other")})
	})
	t.Cleanup(h.Resume)
	h.Hang("list")
	examine := func() api.Finding {
		all, err := r.Doctor(t.Context())
		if err != nil {
			t.Error(err)
		}
		for _, f := range all {
			if f.Subject == "pool other" && f.Level == host.Error {
				return f
			}
		}
		return api.Finding{}
	}
	for range 3 {
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				if f := examine(); !strings.Contains(f.Text, "its disk hangs") {
					t.Errorf("%+v", f)
				}
			})
		}
		ended := make(chan struct{})
		go func() { all.Wait(); close(ended) }()
		passed := time.Duration(0)
		agenttest.Await(t, func() bool {
			if passed < time.Minute { // much later, a clean-up of the pool begins
				r.FakeClock.Advance(time.Second)
				passed += time.Second
			}
			select {
			case <-ended:
				return true
			default:
				return false
			}
		})
	}
	if n := h.Calls(); n != 1 {
		t.Errorf("the pool was listed %d times at once", n)
	}
	h.Resume()
	agenttest.Await(t, func() bool { return examine() == api.Finding{} })
}
