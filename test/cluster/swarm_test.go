package cluster_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// swarm is a Docker Swarm of the engines of a cluster. The first host leads it.
type swarm struct {
	*cluster.Cluster
	a, b *cluster.Host
}

// newSwarm makes a Swarm. Services use the network of their host, because an overlay needs modules that not every
// kernel has.
func newSwarm(t *testing.T, c *cluster.Cluster) *swarm {
	t.Helper()
	s := &swarm{c, c.Hosts[0], c.Hosts[1]}
	s.a.Docker(t, "swarm", "init", "--advertise-addr", s.a.On.IP)
	token := strings.TrimSpace(s.a.Docker(t, "swarm", "join-token", "-q", "worker"))
	s.b.Docker(t, "swarm", "join", "--advertise-addr", s.b.On.IP, "--token", token, s.a.On.IP+":2377")
	for _, h := range []*cluster.Host{s.a, s.b} {
		h.Docker(t, "volume", "ls") // a Swarm knows of plugins that its engines have used
	}
	return s
}

// on is the constraint with which a service runs on a host.
func on(h *cluster.Host) string { return "node.hostname==" + h.Name }

// service starts a service whose tasks write their host into a volume, and stay.
func (s *swarm) service(t *testing.T, name, volume string, args ...string) {
	t.Helper()
	s.a.Docker(t, slices.Concat([]string{
		"service", "create", "--detach", "--quiet", "--no-resolve-image", "--network", "host", "--name", name, "--stop-signal", "KILL",
		"--mount", "type=volume,source=" + volume + ",target=/data,volume-driver=drover",
	}, args, []string{cluster.Image, "sh", "-c", "hostname >> /data/where; exec sleep infinity"})...)
}

// update changes a service as the arguments say, and does not wait for the result.
func (s *swarm) update(t *testing.T, args ...string) {
	t.Helper()
	s.a.Docker(t, append([]string{"service", "update", "--detach", "--quiet", "--no-resolve-image"}, args...)...)
}

// tasks lists the tasks of a service that the Swarm wants to run, or that have failed: state, node and error.
func (s *swarm) tasks(t *testing.T, name string) []string {
	t.Helper()
	out := s.a.Docker(t, "service", "ps", "--no-trunc", "--format", "{{.CurrentState}} on {{.Node}}: {{.Error}}", name)
	return strings.Split(strings.TrimSpace(out), "\n")
}

// await waits for a task whose line begins with one text and continues with another.
func (s *swarm) await(t *testing.T, name, state string, parts ...string) {
	t.Helper()
	host.Await(t, name+" is "+state, func() error {
		lines := s.tasks(t, name)
		for _, line := range lines {
			if strings.HasPrefix(line, state) && !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
				return nil
			}
		}
		return errors.New(strings.Join(lines, "\n"))
	})
}

// TestSwarm: services of a Swarm use volumes as containers do. Tasks on all nodes make one volume, a task that starts
// on another node takes its volume along, and a drained node of the Swarm is still a member of the cluster.
func TestSwarm(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{Consul: 1, Profiles: profiles})
	s := newSwarm(t, c)
	volume := func(name string) (at string, epoch uint64) {
		v := s.b.Inspect(t, name)
		return v.Node, v.Epoch
	}

	s.service(t, "app", "app@gold", "--constraint", on(s.a))
	s.await(t, "app", "Running", "on "+s.a.Name)

	// The drained first host has no tasks, and serves volumes as before: the volume of the task follows the task.
	s.update(t, "app", "--constraint-rm", on(s.a))
	s.await(t, "app", "Running")
	from, before := volume("app")
	to := s.b
	if from == s.b.Name {
		to = s.a
	}
	s.a.Docker(t, "node", "update", "--availability", "drain", from)
	s.await(t, "app", "Running", "on "+to.Name)
	if at, epoch := volume("app"); at != to.Name || epoch <= before {
		t.Errorf("the task went to %s, and its volume is at epoch %d on %s", to.Name, epoch, at)
	}
	for _, n := range nodesOf(t, c) {
		if !strings.HasSuffix(n, "alive") {
			t.Errorf("with a node drained: %s", n)
		}
	}
	s.a.Docker(t, "node", "update", "--availability", "active", from)
	if out := s.on(from).Docker(t, "run", "--rm", "-v", "drained@gold:/data", "--volume-driver", "drover", cluster.Image, "sh", "-c", "echo here > /data/x; cat /data/x"); strings.TrimSpace(out) != "here" {
		t.Errorf("the host that was drained: %q", out)
	}

	// Each engine makes and mounts the volume at the same time: one gets it, and the error of the other names that
	// node.
	s.service(t, "all", "same@gold", "--mode", "global", "--restart-condition", "none")
	// With start-first, the second task would be a second writer on another node. It is refused with the name of the
	// node that has the volume, and the first task stays.
	other := s.on(from)
	s.update(t, "app", "--update-order", "start-first", "--constraint-add", on(other))
	s.await(t, "app", "Rejected", "on "+other.Name, "is mounted by", "on node "+to.Name)
	s.await(t, "app", "Running", "on "+to.Name)
	if at, _ := volume("app"); at != to.Name {
		t.Errorf("while it is in use on %s it went to %s", to.Name, at)
	}
	if at := mounts(t, other); slices.ContainsFunc(at, func(p string) bool { return strings.Contains(p, s.b.Inspect(t, "app").ID.String()) }) {
		t.Errorf("%s has it mounted as well: %v", other.Name, at)
	}
	// With stop-first, the volume is moved.
	s.update(t, "app", "--update-order", "stop-first", "--force")
	s.await(t, "app", "Running", "on "+other.Name)
	if at, _ := volume("app"); at != other.Name {
		t.Errorf("the task is on %s, its volume on %s", other.Name, at)
	}

	s.await(t, "all", "Running")
	s.await(t, "all", "", "volume same", "node ")
	var same []string
	for _, v := range s.a.Volumes(t) {
		if strings.HasPrefix(v, "same") {
			same = append(same, v)
		}
	}
	if len(same) != 1 {
		t.Errorf("creates on all nodes made %v", same)
	}
	s.a.Docker(t, "service", "rm", "all", "app")
	where := strings.Fields(once(t, other, "app@gold", "cat /data/where"))
	if len(where) < 3 || where[len(where)-1] != other.Name || where[len(where)-2] != to.Name {
		t.Errorf("tasks wrote %v, the last ones should be %s's and %s's", where, to.Name, other.Name)
	}
}

// on returns the host with a name.
func (s *swarm) on(name string) *cluster.Host {
	if name == s.b.Name {
		return s.b
	}
	return s.a
}

// nodesOf says of each node whether it is alive.
func nodesOf(t *testing.T, c *cluster.Cluster) (list []string) {
	t.Helper()
	nodes, err := c.Controls[0].Client(t).NodeList(t.Context(), "")
	require.NoError(t, err)
	for _, n := range nodes {
		state := "away"
		if n.Live {
			state = "alive"
		}
		list = append(list, fmt.Sprint(n.Name, " ", state))
	}
	return list
}
