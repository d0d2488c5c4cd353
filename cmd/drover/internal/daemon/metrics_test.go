package daemon

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
)

// deciding is a control that shows no pools and no volumes.
type deciding struct{ why string }

func (deciding) Pools(context.Context) ([]api.Pool, error) { return nil, nil }
func (deciding) SeenVolumes(context.Context) []api.Volume  { return nil }
func (d deciding) Failover(context.Context) (api.FailoverState, error) {
	return api.FailoverState{Halted: d.why}, nil
}

// That nothing fails over has a figure where control is, and none where an agent alone is.
func TestFailoverHaltedHasAFigure(t *testing.T) {
	for want, seen := range map[string]poolsAndVolumes{
		"drover_failover_halted 1": deciding{"2 nodes vanished"},
		"drover_failover_halted 0": deciding{},
		"":                         struct{ poolsAndVolumes }{deciding{"2 nodes vanished"}},
	} {
		w := httptest.NewRecorder()
		newMetrics(seen, nil, "1.0").ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		if got := w.Body.String(); want != "" && !strings.Contains(got, want+"\n") || want == "" && strings.Contains(got, "drover_failover_halted") {
			t.Errorf("want %q in %s", want, got)
		}
	}
}

// holding is a node with a pool that is held, and one that serves.
type holding struct{ poolsAndVolumes }

func (holding) Pools(context.Context) ([]api.Pool, error) {
	pool := func(name string, st dataset.PoolStatus) api.Pool {
		return api.Pool{Pool: dataset.Pool{Name: name}, NodeName: "host-a", Status: &st}
	}
	return []api.Pool{pool("back", dataset.PoolStatus{Held: true}), pool("good", dataset.PoolStatus{Online: true})}, nil
}

func TestHeldPoolHasAFigure(t *testing.T) {
	w := httptest.NewRecorder()
	newMetrics(holding{deciding{}}, nil, "1.0").ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{`drover_pool_held{node="host-a",pool="back"} 1`, `drover_pool_held{node="host-a",pool="good"} 0`, `drover_pool_online{node="host-a",pool="back"} 0`} {
		if got := w.Body.String(); !strings.Contains(got, want+"\n") {
			t.Errorf("want %q in %s", want, got)
		}
	}
}

// doubting is a control whose store is not to be believed, or is; keeping an agent with replicas.
type doubting struct {
	poolsAndVolumes
	why string
}

func (d doubting) Halted(context.Context) (string, error) { return d.why, nil }

var _ haltReporter = (*control.Service)(nil)

type keeping struct{ poolsAndVolumes }

func (keeping) SupersededVolumes() []string { return nil }
func (keeping) ReplicaLags() []agent.ReplicaLag {
	return []agent.ReplicaLag{{Volume: "db", Age: time.Minute, MaxLoss: 30 * time.Second}, {Volume: "web", Age: time.Minute}}
}

// A store that is not believed has a figure where control is, and how old a replica may be
// where one is that takes over by itself.
func TestFiguresOfFailover(t *testing.T) {
	figures := func(seen poolsAndVolumes) string {
		w := httptest.NewRecorder()
		newMetrics(seen, nil, "1.0").ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		return w.Body.String()
	}
	for why, want := range map[string]string{"it was restored from a backup": "\ndrover_store_halted 1\n", "": "\ndrover_store_halted 0\n"} {
		if got := figures(doubting{deciding{}, why}); !strings.Contains(got, want) {
			t.Errorf("%q: want %q in %s", why, want, got)
		}
	}
	got := figures(keeping{deciding{}})
	if !strings.Contains(got, `drover_replica_max_loss_seconds{volume="db"} 30`) || strings.Contains(got, `max_loss_seconds{volume="web"}`) || strings.Contains(got, "store_halted") {
		t.Error(got)
	}
}

// twice is an agent that has two datasets of one name: one is in the trash.
type twice struct{ deciding }

func (twice) SeenVolumes(context.Context) (list []api.Volume) {
	for _, used := range []dataset.Size{5, 9} {
		list = append(list, api.Volume{Dataset: dataset.Dataset{Volume: "db"}, Node: "host-a", Status: &dataset.DatasetStatus{Mounted: true, Used: used}})
	}
	return list
}

func (twice) SupersededVolumes() []string { return []string{"db", "db"} }

func (twice) ReplicaLags() []agent.ReplicaLag {
	return []agent.ReplicaLag{{Volume: "db", Age: time.Minute, MaxLoss: 30 * time.Second}, {Volume: "db", Age: 2 * time.Minute, MaxLoss: 40 * time.Second}}
}

func (twice) GuardStatus(context.Context) (st guard.Status, err error) {
	for _, ahead := range []time.Duration{4 * time.Second, 5 * time.Second} {
		st.Datasets = append(st.Datasets, guard.Entry{Volume: "db", Deadline: ahead, State: guard.StateArmed})
	}
	return st, nil
}

// Two datasets of one name are one figure, the worse one, and no reason to show none at all.
func TestFiguresOfOneName(t *testing.T) {
	w := httptest.NewRecorder()
	newMetrics(twice{}, nil, "1.0").ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	for _, want := range []string{
		`drover_replica_age_seconds{volume="db"} 120`, `drover_replica_max_loss_seconds{volume="db"} 30`, `drover_copy_superseded{volume="db"} 1`,
		`drover_guard_deadline_seconds{volume="db"} 4`, `drover_volume_used_bytes{node="host-a",volume="db"} 9`,
	} {
		if !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("%s is missing in %s", want, w.Body)
		}
	}
}
