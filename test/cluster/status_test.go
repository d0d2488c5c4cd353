package cluster_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/consul"
	"github.com/droverhq/drover/test/host"
)

// statusTime is how long the test waits until drover status names a condition, and until it is quiet after its end. The
// goal is 20 seconds: the log has how long it took. A busy machine takes longer, and timings do not decide.
const statusTime = 2 * time.Minute

// findings returns what drover status finds on a host.
func findings(t *testing.T, h *cluster.Host) []api.Finding {
	t.Helper()
	var r struct{ Findings []api.Finding }
	out := h.Exec(t, "status", "-o", "json")
	if err := json.Unmarshal([]byte(out.Out), &r); err != nil {
		t.Fatalf("drover status on %s: %v\n%s%s", h.Name, err, out.Out, out.Err)
	}
	return r.Findings
}

// finding is what a finding of drover status must have: its level, and parts of its other properties. Without a level, a
// finding of any level has it.
type finding struct{ level, subject, text, fix string }

// awaitFinding waits until drover status on a host has, or no longer has, a finding, but no longer than statusTime.
func awaitFinding(t *testing.T, h *cluster.Host, is finding, want bool) {
	t.Helper()
	awaitFindingSince(t, h, is, want, time.Now())
}

// awaitFindingSince is awaitFinding with the time from which the wait is measured.
func awaitFindingSince(t *testing.T, h *cluster.Host, is finding, want bool, began time.Time) {
	t.Helper()
	for {
		all := findings(t, h)
		has := slices.ContainsFunc(all, func(f api.Finding) bool {
			return (is.level == "" || f.Level == is.level) && strings.Contains(f.Subject, is.subject) &&
				strings.Contains(f.Text, is.text) && (!want || strings.Contains(f.Fix, is.fix))
		})
		took := time.Since(began)
		if has == want {
			t.Logf("%s %s %q: %t after %v", is.level, is.subject, is.text, want, took.Round(100*time.Millisecond))
			return
		}
		if took > statusTime {
			t.Fatalf("%+v on %s is %t after %v, want %t; all: %+v", is, h.Name, has, took, want, all)
		}
		time.Sleep(200 * time.Millisecond) // nothing announces what the next report of a node has
	}
}

// TestClusterStatus: drover status names what is wrong in the cluster on any host. Once it is repaired, status says
// nothing about it any more.
func TestClusterStatus(t *testing.T) {
	t.Parallel()
	w := &world{Cluster: cluster.New(t, cluster.Options{Profiles: profiles})}
	here, other := w.Hosts[0], w.Hosts[1]
	for _, spec := range []string{"watched", "guarded@auto"} {
		// The profile needs guards, and a host reports its guard some seconds after it has joined.
		host.Await(t, spec+" is created", func() error { return other.Plug(t).Create(spec, nil) })
	}
	leader := w.Consul.Leader()
	var servers []*consul.Server // that follow the leader
	for _, s := range w.Consul.Servers {
		if s != leader {
			servers = append(servers, s)
		}
	}
	// The sessions of nodes end after up to 20 s. Before that, status names these conditions as warnings.
	soon := map[string]finding{
		"node is dead":       {"", "node " + other.Name, "home of", "drover node inspect " + other.Name},
		"failover is halted": {"", "failover", "failover is halted for the whole cluster", "drover node"},
	}
	for _, c := range []struct {
		name  string
		at    *cluster.Host // where drover status runs
		cause func(t *testing.T)
		finding
		mend func(t *testing.T)
	}{
		{
			"control replica is dead", here, func(t *testing.T) { w.Controls[0].Kill9(t) },
			finding{"warning", "control ", "does not answer", "start drover control on that host"},
			func(t *testing.T) { w.Controls[0].Up(t) },
		},
		{
			"server of Consul is dead", here, func(*testing.T) { servers[0].Kill() },
			// Consul removes the server after about 10 s. The text changes then.
			finding{"warning", "store", "Consul server", "start th"},
			func(*testing.T) { servers[0].Start() },
		},
		{
			"Consul has lost its quorum", here, func(*testing.T) { servers[0].Kill(); leader.Kill() },
			finding{"error", "store", "nothing can be created, moved or deleted", "start the Consul servers that are down"},
			func(*testing.T) { servers[0].Start(); leader.Start(); w.Consul.AwaitLeader() },
		},
		{
			"node is dead", here, func(t *testing.T) { other.Kill9(t) },
			finding{"error", "node " + other.Name, "home of", "drover node inspect " + other.Name},
			func(t *testing.T) { other.Up(t) },
		},
		{
			"failover is halted", here, func(t *testing.T) { other.Kill9(t); w.Hosts[2].Kill9(t) },
			finding{"error", "failover", "failover is halted for the whole cluster", "drover node fence NODE"},
			func(t *testing.T) { other.Up(t); w.Hosts[2].Up(t) },
		},
		{
			"node is cut off from control", other, func(*testing.T) { w.cutFromControl(other) },
			finding{"error", "control", "does not respond", "start drover control, and check the network"},
			func(*testing.T) { w.Net.Heal() },
		},
		{
			"guard is dead", here, func(t *testing.T) { other.Guard.Kill9(t) },
			finding{"error", "guard on " + other.Name, "no volume with failover auto", "systemctl start drover-guard"},
			func(t *testing.T) { other.Guard.Up(t) },
		},
	} {
		if !t.Run(c.name, func(t *testing.T) {
			first, named := soon[c.name]
			if !named {
				first = c.finding
			}
			awaitFinding(t, c.at, first, false)
			began := time.Now()
			c.cause(t)
			awaitFindingSince(t, c.at, first, true, began)
			if named {
				awaitFindingSince(t, c.at, c.finding, true, began)
			}
			c.mend(t)
			awaitFinding(t, c.at, first, false)
		}) {
			return
		}
	}
	w.Consul.AwaitLeader()
	w.Controls[1].Must(t, "volume", "rm", "watched", "guarded", "--yes")
}

// cutFromControl cuts a host off from all control replicas.
func (w *world) cutFromControl(h *cluster.Host) {
	for _, r := range w.Controls {
		w.Net.Partition(h.On, r.On)
	}
}
