package nodes

import (
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func TestNodeState(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for want, n := range map[string]api.Node{
		"live":                      {Live: true, StatusSince: now.Add(-time.Hour)},
		"live, draining":            {Live: true, Node: dataset.Node{Cordoned: true, Draining: true}},
		"live, drained":             {Live: true, Node: dataset.Node{Cordoned: true, Draining: true}, Drained: true},
		"unreachable":               {},
		"unreachable for 5 minutes": {StatusSince: now.Add(-5 * time.Minute)},
	} {
		if got := nodeState(n, now); got != want {
			t.Errorf("%+v: %s, want %s", n, got, want)
		}
	}
}
