package host

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
)

// deciding is a control that shows no pools and no volumes.
type deciding struct{ why string }

func (deciding) Pools(context.Context) ([]api.Pool, error) { return nil, nil }
func (deciding) Seen(context.Context) []api.Volume         { return nil }
func (d deciding) Failover(context.Context) (api.FailoverState, error) {
	return api.FailoverState{Halted: d.why}, nil
}

// That nothing fails over has a figure where control is, and none where an agent alone is.
func TestFailoverHaltedHasAFigure(t *testing.T) {
	for want, seen := range map[string]seer{
		"drover_failover_halted 1": deciding{"2 nodes vanished"},
		"drover_failover_halted 0": deciding{},
		"":                         struct{ seer }{deciding{"2 nodes vanished"}},
	} {
		w := httptest.NewRecorder()
		newMetrics(seen, nil, "1.0").ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		if got := w.Body.String(); want != "" && !strings.Contains(got, want+"\n") || want == "" && strings.Contains(got, "drover_failover_halted") {
			t.Errorf("want %q in %s", want, got)
		}
	}
}
