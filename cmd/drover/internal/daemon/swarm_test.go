package daemon

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// docker is a fake engine.
type docker struct {
	info    swarm.Info
	members []swarm.Node
	updates int
	err     error
	asked   chan struct{}
}

func (e *docker) Close() error { return nil }

func (e *docker) Info(context.Context, client.InfoOptions) (client.SystemInfoResult, error) {
	if e.asked != nil {
		e.asked <- struct{}{}
	}
	return client.SystemInfoResult{Info: system.Info{ServerVersion: "28.0.1", Swarm: e.info}}, e.err
}

func (e *docker) NodeList(context.Context, client.NodeListOptions) (client.NodeListResult, error) {
	return client.NodeListResult{Items: e.members}, nil
}

func (e *docker) NodeUpdate(_ context.Context, id string, o client.NodeUpdateOptions) (client.NodeUpdateResult, error) {
	for i := range e.members {
		if m := &e.members[i]; m.ID == id {
			if m.Version != o.Version {
				return client.NodeUpdateResult{}, errors.New("update out of sequence")
			}
			m.Spec = o.Spec
			m.Version.Index++
			e.updates++
		}
	}
	return client.NodeUpdateResult{}, nil
}

func member(id string, leads bool, labels map[string]string) swarm.Node {
	n := swarm.Node{ID: id, Spec: swarm.NodeSpec{Annotations: swarm.Annotations{Labels: labels}, Role: swarm.NodeRoleWorker, Availability: swarm.NodeAvailabilityDrain}}
	if leads {
		n.ManagerStatus = &swarm.ManagerStatus{Leader: true}
	}
	return n
}

func node(name, id string, load float64, pools ...dataset.PoolFacts) api.Node {
	return api.Node{Node: dataset.Node{Name: name}, Facts: &dataset.Facts{Architecture: "x86_64", CPUs: 2, Load10: load, Swarm: id, Pools: pools}}
}

func watcher(e *docker, nodes *[]api.Node) *Watcher {
	return &Watcher{
		Clock: clock.System{}, Log: logrus.New(), Open: func() (API, error) { return e, nil },
		Nodes: func(context.Context) ([]api.Node, error) { return *nodes, nil },
	}
}

// TestLabelsFollowFacts: the leader updates the labels of all nodes, and writes only changes. It keeps the labels of
// others, and removes labels of facts that no longer exist.
func TestLabelsFollowFacts(t *testing.T) {
	e := &docker{info: swarm.Info{NodeID: "s1", ControlAvailable: true}, members: []swarm.Node{
		member("s1", true, map[string]string{"mine": "x", "drover.pool.old": "true"}), member("s2", false, nil), member("s3", false, map[string]string{"drover.cpus": "9"}),
	}}
	nodes := []api.Node{node("a", "s1", 3.14159), node("b", "s2", 1, dataset.PoolFacts{Name: "fast", Backend: "loop", Online: true, Free: 5}), {Node: dataset.Node{Name: "silent"}}}
	w := watcher(e, &nodes)
	look := func() {
		t.Helper()
		require.NoError(t, w.Update(t.Context()))
	}
	look()
	base := map[string]string{"drover.architecture": "x86_64", "drover.cpus": "2", "drover.is_virtual": "false", "drover.load_1": "0", "drover.load_15": "0", "drover.memory_free": "0", "drover.memory_total": "0"}
	with := func(more ...string) map[string]string {
		out := map[string]string{}
		for k, v := range base {
			out[k] = v
		}
		for i := 0; i < len(more); i += 2 {
			out[more[i]] = more[i+1]
		}
		return out
	}
	for i, want := range []map[string]string{
		with("mine", "x", "drover.node", "a", "drover.load_10", "3.14"),
		with("drover.node", "b", "drover.load_10", "1", "drover.backend.loop", "true", "drover.pool.fast", "true", "drover.pool.fast.free", "5"),
		{},
	} {
		if d := cmp.Diff(want, e.members[i].Spec.Labels); d != "" {
			t.Errorf("node %d: %s", i, d)
		}
	}
	if e.members[1].Spec.Availability != swarm.NodeAvailabilityDrain || e.updates != 3 {
		t.Errorf("%+v after %d updates", e.members[1].Spec, e.updates)
	}
	look()
	if e.updates != 3 {
		t.Error("what is so already was written again")
	}
	nodes[1].Facts.Pools[0].Online = false
	look()
	for _, label := range []string{"drover.pool.fast", "drover.backend.loop"} {
		if _, there := e.members[1].Spec.Labels[label]; there || e.updates != 4 {
			t.Errorf("the pool is offline: %v", e.members[1].Spec.Labels)
		}
	}
	if got := w.Engine(); got != (controlsync.Engine{Version: "28.0.1", Swarm: "s1"}) {
		t.Errorf("%+v", got)
	}
}

func TestWhoDoesNotLeadWritesNothing(t *testing.T) {
	nodes := []api.Node{node("a", "s1", 3)}
	for name, c := range map[string]struct {
		info swarm.Info
		kind *dataset.Kind
	}{
		"not part of a Swarm": {swarm.Info{}, dataset.ErrUnsupported},
		"a worker":            {swarm.Info{NodeID: "s1"}, nil},
		"another manager":     {swarm.Info{NodeID: "s1", ControlAvailable: true}, nil},
	} {
		e := &docker{info: c.info, members: []swarm.Node{member("s1", false, nil), member("s2", true, nil)}}
		if err := watcher(e, &nodes).Update(t.Context()); dataset.KindOf(err) != c.kind || e.updates != 0 {
			t.Errorf("%s: %v, %d updates", name, err, e.updates)
		}
	}
}

// TestWithoutFactsTheLabelsStay: while control is unreachable, the facts of the nodes are unknown, so the labels stay.
func TestWithoutFactsTheLabelsStay(t *testing.T) {
	e := &docker{info: swarm.Info{NodeID: "s1", ControlAvailable: true}, members: []swarm.Node{member("s1", true, map[string]string{"drover.cpus": "2"})}}
	w := watcher(e, nil)
	w.Nodes = func(context.Context) ([]api.Node, error) {
		return nil, dataset.Errorf(dataset.ErrUnavailable, "control is away")
	}
	if err := w.Update(t.Context()); !errors.Is(err, dataset.ErrUnavailable) || e.updates != 0 {
		t.Errorf("%v, %d updates", err, e.updates)
	}
	e.err = errors.New("connection refused")
	w.ReadVersion(t.Context())
	if got := w.Engine(); got.Version != "28.0.1" {
		t.Errorf("an engine that is away is forgotten: %+v", got)
	}
}

// waited is a clock that reports on begun when a caller starts to wait.
type waited struct {
	*fakes.Clock
	begun chan struct{}
}

func (w *waited) After(d time.Duration) <-chan time.Time {
	ch := w.Clock.After(d)
	w.begun <- struct{}{}
	return ch
}

// TestRunLooksAgainAndSaysWhyOnce: Run repeats a failed look after each interval, and logs the reason once.
func TestRunLooksAgainAndSaysWhyOnce(t *testing.T) {
	e := &docker{err: errors.New("connection refused"), asked: make(chan struct{})}
	nodes := []api.Node{}
	w := watcher(e, &nodes)
	c := &waited{fakes.NewClock(time.Unix(0, 0)), make(chan struct{})}
	var log bytes.Buffer
	l := logrus.New()
	l.SetOutput(&log)
	w.Clock, w.Log = c, l
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); w.Run(ctx) }()
	for range 3 {
		<-e.asked
		<-c.begun
		c.Advance(interval)
	}
	<-e.asked
	<-c.begun
	stop()
	<-ended
	if n := strings.Count(log.String(), "connection refused"); n != 1 {
		t.Errorf("said %d times: %s", n, log.String())
	}
}
