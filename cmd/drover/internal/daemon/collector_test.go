package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
)

// deciding is a control that shows no pools and no volumes.
type deciding struct{ why string }

func (deciding) Pools(context.Context) ([]api.Pool, error)                { return nil, nil }
func (deciding) SeenVolumes(context.Context) ([]api.VolumeSummary, error) { return nil, nil }
func (d deciding) Failover(context.Context) (api.FailoverState, error) {
	return api.FailoverState{Halted: d.why}, nil
}

// The halt of failover has a metric in a process with control, and none in a process with only an agent.
func TestFailoverHaltedHasAFigure(t *testing.T) {
	for want, seen := range map[string]Source{
		"drover_failover_halted 1": deciding{"2 nodes vanished"},
		"drover_failover_halted 0": deciding{},
		"":                         struct{ Source }{deciding{"2 nodes vanished"}},
	} {
		w := httptest.NewRecorder()
		NewMetrics(MetricsOptions{Source: seen, Version: "1.0"}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		if got := w.Body.String(); want != "" && !strings.Contains(got, want+"\n") || want == "" && strings.Contains(got, "drover_failover_halted") {
			t.Errorf("want %q in %s", want, got)
		}
	}
}

// holding is a node with a quarantined pool and a pool that is online.
type holding struct{ Source }

func (holding) Pools(context.Context) ([]api.Pool, error) {
	pool := func(name string, st dataset.PoolStatus) api.Pool {
		return api.Pool{Pool: dataset.Pool{Name: name}, NodeName: "host-a", Status: &st}
	}
	return []api.Pool{pool("back", dataset.PoolStatus{Quarantined: true}), pool("good", dataset.PoolStatus{Online: true})}, nil
}

func TestHeldPoolHasAFigure(t *testing.T) {
	w := httptest.NewRecorder()
	NewMetrics(MetricsOptions{Source: holding{deciding{}}, Version: "1.0"}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{`drover_pool_held{node="host-a",pool="back"} 1`, `drover_pool_held{node="host-a",pool="good"} 0`, `drover_pool_online{node="host-a",pool="back"} 0`} {
		if got := w.Body.String(); !strings.Contains(got, want+"\n") {
			t.Errorf("want %q in %s", want, got)
		}
	}
}

// doubting is a control that does not trust its store if why is set. keeping is an agent with replicas.
type doubting struct {
	Source
	why string
}

func (d doubting) Halted(context.Context) (string, error) { return d.why, nil }

var _ haltReporter = (*control.Service)(nil)

type keeping struct{ Source }

func (keeping) SupersededVolumes() []string { return nil }
func (keeping) ReplicaLags() []agent.ReplicaLag {
	return []agent.ReplicaLag{{Volume: "db", Age: time.Minute, MaxLoss: 30 * time.Second}, {Volume: "web", Age: time.Minute}}
}

// Whether control trusts its store has a metric in a process with control. The maximum age of a replica has one on a
// node whose replica can take over automatically.
func TestFiguresOfFailover(t *testing.T) {
	figures := func(seen Source) string {
		w := httptest.NewRecorder()
		NewMetrics(MetricsOptions{Source: seen, Version: "1.0"}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
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

// twice is an agent with two datasets of one name, one of which is in the trash.
type twice struct{ deciding }

func (twice) SeenVolumes(context.Context) (list []api.VolumeSummary, err error) {
	for _, used := range []dataset.Size{5, 9} {
		list = append(list, api.VolumeSummary{Volume: "db", Node: "host-a", Status: &dataset.DatasetStatus{
			Mounted: true, Used: new(used), Usage: &dataset.Usage{Used: used, Available: 9, Inodes: 64, InodesUsed: 3},
		}})
	}
	return list, nil
}

// partial is an agent that can read one of its volumes.
type partial struct{ deciding }

func (partial) SeenVolumes(ctx context.Context) ([]api.VolumeSummary, error) {
	list, _ := twice{}.SeenVolumes(ctx)
	return list[:1], errors.New("the store does not answer")
}

// If some volumes cannot be read, the response has the others, and the failure is counted.
func TestUnreadVolumesAreCounted(t *testing.T) {
	const counted = `promhttp_metric_handler_errors_total{cause="gathering"} 1`
	for source, want := range map[Source]bool{partial{}: true, twice{}: false} {
		h := NewMetrics(MetricsOptions{Source: source, Version: "1.0"})
		var w *httptest.ResponseRecorder
		for range 2 { // the second response has the count of the first request
			w = httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		}
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `drover_volume_mounted{node="host-a",volume="db"} 1`) {
			t.Errorf("%T: %d: %s", source, w.Code, w.Body)
		}
		if got := strings.Contains(w.Body.String(), counted+"\n"); got != want {
			t.Errorf("%T: counted %t, want %t: %s", source, got, want, w.Body)
		}
	}
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

// Two datasets of one name have one sample, with the worse value. They do not prevent the other metrics from being
// shown.
func TestFiguresOfOneName(t *testing.T) {
	w := httptest.NewRecorder()
	NewMetrics(MetricsOptions{Source: twice{}, Version: "1.0"}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	for _, want := range []string{
		`drover_replica_age_seconds{volume="db"} 120`, `drover_replica_max_loss_seconds{volume="db"} 30`, `drover_copy_superseded{volume="db"} 1`,
		`drover_guard_deadline_seconds{volume="db"} 4`, `drover_volume_used_bytes{node="host-a",volume="db"} 9`,
		`drover_volume_inodes{node="host-a",volume="db"} 64`, `drover_volume_inodes_used{node="host-a",volume="db"} 3`,
	} {
		if !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("%s is missing in %s", want, w.Body)
		}
	}
}

// body returns the answer to a scrape.
func body(t *testing.T, o MetricsOptions) string {
	t.Helper()
	w := httptest.NewRecorder()
	NewMetrics(o).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// unanswered is a control whose store has no leader.
type unanswered struct{ deciding }

func (unanswered) Pools(context.Context) ([]api.Pool, error) { return nil, dataset.ErrUnavailable }
func (unanswered) ClusterHealth(context.Context) (api.ClusterHealth, error) {
	return api.ClusterHealth{
		Store: api.StoreHealth{Kind: "consul", Servers: []api.StoreServer{{Name: "one"}}},
		Nodes: []api.NodeHealth{
			{Name: "host-a", Live: true, Found: &api.NodeFindings{Findings: []api.Finding{{Level: "error"}}}}, {Name: "host-b"},
		},
		Replicas: []api.ControlReplica{{}, {}},
	}, nil
}

// TestOnePartHidesNoOther: metrics that cannot be read are left out, and the others are exposed.
func TestOnePartHidesNoOther(t *testing.T) {
	got := body(t, MetricsOptions{Source: unanswered{}})
	for _, want := range []string{
		"drover_store_leader 0", `drover_store_server_healthy{server="one"} 0`, `drover_node_up{node="host-a"} 1`,
		`drover_node_up{node="host-b"} 0`, "drover_control_replicas 2", `drover_node_findings{level="error",node="host-a"} 1`,
		"drover_failover_halted 0",
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("%s is missing in %s", want, got)
		}
	}
}

// TestVolumesAreHidden: the switch leaves out each series with the label volume, and nothing else.
func TestVolumesAreHidden(t *testing.T) {
	for _, hide := range []bool{false, true} {
		got := body(t, MetricsOptions{Source: many{3}, Agent: many{3}, HideVolumes: hide, Version: "1.0"})
		if !strings.Contains(got, `drover_build_info{version="1.0"} 1`) {
			t.Errorf("hidden %t: %s", hide, got)
		}
		for _, line := range []string{
			`drover_volume_used_bytes{node="host-a",volume="volume-00001"} 7`,
			`drover_volume_io_bytes_total{direction="write",node="host-a",volume="volume-00002"} 8192`,
			`drover_volume_io_seconds_total{direction="read",node="host-a",volume="volume-00002"} 1`,
			`drover_volume_snapshot_age_seconds{volume="volume-00001"} 3600`,
			`drover_volume_snapshot_overdue_seconds{volume="volume-00001"} 0`,
			`drover_replica_interval_seconds{volume="volume-00001"} 3600`,
		} {
			if strings.Contains(got, line+"\n") == hide {
				t.Errorf("hidden %t: want %t for %s in %s", hide, !hide, line, got)
			}
		}
		if hide && strings.Contains(got, `volume="`) {
			t.Errorf("a series for each volume in %s", got)
		}
	}
}

// TestDurations: the durations that a Recorder has recorded are exposed, with their outcomes.
func TestDurations(t *testing.T) {
	r := NewRecorder()
	r.ExposeOperations([]dataset.OpKind{dataset.OpClone})
	for _, err := range []error{nil, dataset.ErrCancelled, dataset.ErrInvalid, dataset.ErrInternal} {
		r.Operation(dataset.Operation{Kind: dataset.OpSnapshot, Volume: "volume-00000"}, err, time.Second)
		r.PluginCall("Mount", err, time.Second)
		r.ControlRequest("GET /v1/pools", err, time.Second)
	}
	for _, status := range []int{200, 404, 500, 0} {
		r.Request("GET /v1/volumes", status, time.Second)
	}
	r.Request("/", 404, time.Second)
	got := body(t, MetricsOptions{Source: many{1}, Agent: many{1}, Recorder: r})
	wants := []string{
		`drover_operation_duration_seconds_count{kind="clone",outcome="failed"} 0`,
		`drover_volume_snapshot_failures_total{volume="volume-00000"} 2`,
		`drover_api_request_duration_seconds_count{endpoint="unknown",outcome="refused"} 1`,
	}
	for _, outcome := range []string{"ok", "cancelled", "refused", "failed"} {
		wants = append(wants, `drover_operation_duration_seconds_count{kind="snapshot",outcome="`+outcome+`"} 1`,
			`drover_plugin_call_duration_seconds_count{call="Mount",outcome="`+outcome+`"} 1`,
			`drover_control_request_duration_seconds_count{endpoint="GET /v1/pools",outcome="`+outcome+`"} 1`,
			`drover_api_request_duration_seconds_count{endpoint="GET /v1/volumes",outcome="`+outcome+`"} 1`)
	}
	for _, want := range wants {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("%s is missing in %s", want, got)
		}
	}
}

// many is a host with control and many volumes, each of which has every metric.
type many struct{ number int }

func (m many) Pools(context.Context) ([]api.Pool, error) { return nil, nil }

func (m many) SeenVolumes(context.Context) (list []api.VolumeSummary, err error) {
	for i := range m.number {
		list = append(list, api.VolumeSummary{
			ID: uuid.New(), Volume: fmt.Sprintf("volume-%05d", i), Size: dataset.GiB, Node: "host-a",
			Status: &dataset.DatasetStatus{Mounted: true, Used: new(dataset.Size(7)), Mounts: []dataset.Mount{{ID: "m", Count: 1}}},
		})
	}
	return list, nil
}

func (m many) VolumeIO(context.Context) (list []api.VolumeIO, err error) {
	for i := range m.number {
		io := api.IO{Operations: uint64(i), Bytes: uint64(i) << 12, Time: dataset.Duration(time.Second)}
		list = append(list, api.VolumeIO{Volume: fmt.Sprintf("volume-%05d", i), Node: "host-a", Read: io, Write: io})
	}
	return list, nil
}

func (m many) Schedules(context.Context) (snapshots []housekeeping.Schedule, backups []housekeeping.BackupSchedule,
	err error) {
	for i := range m.number {
		snapshots = append(snapshots, housekeeping.Schedule{Volume: fmt.Sprintf("volume-%05d", i), Age: time.Hour})
	}
	return snapshots, nil, nil
}

func (m many) SupersededVolumes() []string { return nil }

func (m many) ReplicaLags() (list []agent.ReplicaLag) {
	for i := range m.number {
		list = append(list, agent.ReplicaLag{Volume: fmt.Sprintf("volume-%05d", i), Age: time.Hour, Interval: time.Hour})
	}
	return list
}
