package host

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/control"
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

// doubting is a control whose store is not to be believed, or is; keeping an agent with replicas.
type doubting struct {
	seer
	why string
}

func (d doubting) Halted(context.Context) (string, error) { return d.why, nil }

var _ doubter = (*control.Service)(nil)

type keeping struct{ seer }

func (keeping) SeenSuperseded() []string { return nil }
func (keeping) SeenReplicas() []agent.SeenReplica {
	return []agent.SeenReplica{{Volume: "db", Age: time.Minute, MaxLoss: 30 * time.Second}, {Volume: "web", Age: time.Minute}}
}

// A store that is not believed has a figure where control is, and how old a replica may be
// where one is that takes over by itself.
func TestFiguresOfFailover(t *testing.T) {
	figures := func(seen seer) string {
		w := httptest.NewRecorder()
		newMetrics(seen, nil, "1.0").ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		return w.Body.String()
	}
	for why, want := range map[string]string{"it went back": "\ndrover_store_halted 1\n", "": "\ndrover_store_halted 0\n"} {
		if got := figures(doubting{deciding{}, why}); !strings.Contains(got, want) {
			t.Errorf("%q: want %q in %s", why, want, got)
		}
	}
	got := figures(keeping{deciding{}})
	if !strings.Contains(got, `drover_replica_max_loss_seconds{volume="db"} 30`) || strings.Contains(got, `max_loss_seconds{volume="web"}`) || strings.Contains(got, "store_halted") {
		t.Error(got)
	}
}
