package consul_test

import (
	"testing"
	"time"

	"github.com/droverhq/drover/control/store"
	consultest "github.com/droverhq/drover/test/consul"
)

// TestHealthNamesServersThatAreDown: with one of three servers down the store works and names that server; with two down
// it has no leader. Once they are back, it is healthy again.
func TestHealthNamesServersThatAreDown(t *testing.T) {
	c := consultest.Start(t, consultest.Options{Servers: 3})
	s := open(t, c, "p")
	await := func(what string, ok func(store.Health) bool) {
		t.Helper()
		for began := time.Now(); ; time.Sleep(200 * time.Millisecond) { // Consul reports no change of its autopilot
			h := s.Health(t.Context())
			if ok(h) {
				return
			}
			if time.Since(began) > time.Minute {
				t.Fatalf("%s: not reported within a minute: %+v", what, h)
			}
		}
	}
	down := func(h store.Health) (n int) {
		for _, is := range h.Servers {
			if !is.Healthy {
				n++
			}
		}
		return n
	}
	await("three healthy servers", func(h store.Health) bool {
		return h.Leader != "" && len(h.Servers) == 3 && down(h) == 0 && h.FailureTolerance == 1 && h.Problem == ""
	})
	c.Servers[0].Kill()
	await("a server that is down", func(h store.Health) bool {
		return h.Leader != "" && down(h) == 1 && h.FailureTolerance == 0 && h.Problem == ""
	})
	c.Servers[1].Kill()
	await("no leader", func(h store.Health) bool { return h.Problem != "" && h.Leader == "" })
	c.Servers[0].Start()
	c.Servers[1].Start()
	await("three healthy servers again", func(h store.Health) bool {
		return h.Leader != "" && len(h.Servers) == 3 && down(h) == 0
	})
}
