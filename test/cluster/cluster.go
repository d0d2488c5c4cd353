// Package cluster runs whole clusters for tests. They consist of the real parts: Consul servers, control replicas and
// hosts, each on a separate machine (see test/lan). Some hosts have a Docker engine. Methods that kill, pause or cut
// off a part return after that has happened. Methods that start a part return when it answers. The tests of this
// package and package test/chaos call it. A [Cluster] does not change after New, so it has no lock. Each part belongs
// to the goroutine that stops and starts it.
//
//	func TestMain(m *testing.M) { engine.Main(m) }
//
//	func TestA4(t *testing.T) {
//		c := cluster.New(t, cluster.Options{})
//		a, b := c.Hosts[0], c.Hosts[1]
//		a.Docker(t, "run", "--rm", "-v", "db:/data", "--volume-driver", "drover", …)
//		b.Docker(t, "run", …)
//		c.Net.Partition(a.On, c.Controls[0].On)
//	}
package cluster

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/test/consul"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/lan"
	"github.com/droverhq/drover/test/require"
)

// Options describe a cluster.
type Options struct {
	Consul   int           // number of servers; 0: three
	Controls int           // number of replicas; 0: two
	Hosts    int           // number of hosts; 0: three
	Engines  int           // how many of the first hosts have an engine; 0: two; negative: none
	Profiles string        // text of profiles.yaml; empty: the built-in set
	Pool     string        // as in host.Options; empty: xfs
	Size     int64         // of the filesystem of each host; 0: 4 GiB
	Env      []string      // of control, agents and guards, beside the environment of this process
	Step     time.Duration // of the guards: how long each step of an escalation takes; 0: a second
	// Lease is how long StartWriter, Stop and Head repeat a refused request (see AwaitLease). 0: 15 seconds. Tests that
	// restart control or cut the network set more.
	Lease time.Duration
}

// Cluster is a running cluster. Its parts can be stopped and started concurrently, each by one goroutine at a
// time.
type Cluster struct {
	Net      *lan.Net
	Consul   *consul.Cluster
	Controls []*Control
	Hosts    []*Host

	opts Options
	dir  string
}

// Control is one control replica. Must and Exec run drover as root on its machine.
type Control struct {
	*host.Host

	On *lan.Machine
}

// Host is one host. Its process is the agent. Must and Exec run drover as root on its machine.
type Host struct {
	*host.Host

	Name   string
	On     *lan.Machine
	Guard  *Guard
	Engine *engine.Engine // nil: none
}

// Ports on which the processes of each machine listen.
const (
	controlPort = 9470
	peerPort    = 9471
)

// New creates a cluster and returns when all of it answers. The cluster is removed at the end of the test.
func New(t testing.TB, opts Options) *Cluster {
	t.Helper()
	opts.Controls, opts.Hosts = cmp.Or(opts.Controls, 2), cmp.Or(opts.Hosts, 3)
	opts.Consul, opts.Engines = cmp.Or(opts.Consul, 3), min(cmp.Or(opts.Engines, 2), opts.Hosts)
	opts.Lease = cmp.Or(opts.Lease, 15*time.Second)
	opts.Size = cmp.Or(opts.Size, 4<<30)
	c := &Cluster{opts: opts, dir: t.TempDir()}
	c.Net = lan.New(t)
	c.startConsul(t)
	c.makeAuthority(t)
	for i := range opts.Controls {
		c.Controls = append(c.Controls, c.newControl(t, fmt.Sprint("control", i+1)))
	}
	for i := range opts.Hosts {
		c.Hosts = append(c.Hosts, c.newHost(t, "host-"+string(rune('a'+i)), i < opts.Engines))
	}
	return c
}

func (c *Cluster) startConsul(t testing.TB) {
	t.Helper()
	var on []*lan.Machine
	for i := range c.opts.Consul {
		on = append(on, c.Net.Machine(fmt.Sprint("consul", i+1), nil))
	}
	c.Consul = consul.Start(t, consul.Options{On: on})
}

// ca returns the folder of the cluster's certificate authority.
func (c *Cluster) ca() string { return filepath.Join(c.dir, "ca") }

func (c *Cluster) makeAuthority(t testing.TB) {
	t.Helper()
	cmd := exec.Command(host.Binary(t), "ca", "init", "--dir", c.ca())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("drover ca init: %v: %s", err, out)
	}
}

// token writes a join token for a host to a file and returns its path.
func (c *Cluster) token(t testing.TB, name string) string {
	t.Helper()
	file := filepath.Join(c.dir, name+".token")
	require.NoError(t, os.WriteFile(file, []byte(c.Controls[0].Must(t, "node", "token", "--name", name)), 0o600))
	return file
}

// quoted returns a YAML list of texts.
func quoted(texts []string) string { return `["` + strings.Join(texts, `", "`) + `"]` }

func (c *Cluster) newControl(t testing.TB, name string) *Control {
	t.Helper()
	on := c.Net.Machine(name, nil)
	h := host.Start(t, host.Options{
		Process: "control", Name: name, On: on, Pool: "image", Profiles: c.opts.Profiles, Env: c.opts.Env,
		Config: fmt.Sprintf("store: {consul: {addresses: %s}}\nca: %s\nlisten: {address: \"%s:%d\"}\n",
			quoted(c.Consul.Addresses()), c.ca(), on.IP, controlPort),
	})
	return &Control{Host: h, On: on}
}

// newHost creates a host, lets it join, and starts it. The engine starts last, since an engine with live-restore
// waits for its plugin.
func (c *Cluster) newHost(t testing.TB, name string, withEngine bool) *Host {
	t.Helper()
	plugins := filepath.Join(c.dir, name+"-plugins")
	require.NoError(t, os.Mkdir(plugins, 0o755))
	on := c.Net.Machine(name, map[string]string{"/run/docker/plugins": plugins})
	var controls []string
	for _, r := range c.Controls {
		controls = append(controls, fmt.Sprintf("%s:%d", r.On.IP, controlPort))
	}
	h := &Host{Name: name, On: on, Host: host.Start(t, host.Options{
		Process: "agent", Name: name, On: on, Driver: "drover", Pool: c.opts.Pool, Size: c.opts.Size, Down: true,
		Env:   c.opts.Env,
		Flags: []string{"--join", "@" + c.token(t, name)},
		Config: fmt.Sprintf("control: {addresses: %s}\nlisten: {address: \"%s:%d\"}\n", quoted(controls), on.IP,
			peerPort),
	})}
	h.Guard = c.newGuard(t, h)
	t.Cleanup(func() { h.Guard.stop(t) })
	h.Up(t)
	if withEngine {
		h.Engine = engine.Start(t, engine.Options{On: on})
	}
	return h
}

// Docker runs a docker command on the host and returns its output. The command must succeed.
func (h *Host) Docker(t testing.TB, args ...string) string {
	t.Helper()
	return h.Engine.Must(t, args...)
}

// Inspect returns what drover reports about a volume. The name may be one that Docker uses.
func (h *Host) Inspect(t testing.TB, volume string) (v api.Volume) {
	t.Helper()
	name, _, _ := strings.Cut(volume, "@")
	h.JSON(t, &v, "volume", "inspect", name)
	return v
}

// File returns the path with which the test reaches a file of the host, also below mounts there.
func (h *Host) File(path string) string { return h.On.Path(path) }
