package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/store/consul"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/config"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/profiles"
	testconsul "github.com/droverhq/drover/test/consul"
)

// lab is a cluster in this process.
type lab struct {
	t   *testing.T
	dir string
	ca  *pki.Authority
	set *profiles.Set
}

func newLab(t *testing.T) *lab {
	t.Helper()
	dir, err := os.MkdirTemp("", "drv-") //nolint:usetesting // the path of a socket has at most 107 bytes (unix(7))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := &lab{t: t, dir: dir}
	if l.ca, err = pki.Create(filepath.Join(dir, "ca"), time.Now()); err != nil {
		t.Fatal(err)
	}
	if l.set, err = profiles.Parse("profiles.yaml", drover.Profiles); err != nil {
		t.Fatal(err)
	}
	return l
}

// options returns the options of a process with a name.
func (l *lab) options(name string) Options {
	log := logrus.New()
	log.SetOutput(io.Discard)
	if os.Getenv("DROVER_TEST_LOG") != "" {
		log.SetOutput(os.Stderr)
	}
	at := filepath.Join(l.dir, name)
	return Options{
		Root: at, Run: at, NodeName: name, Version: "test", Log: log,
		Profiles: func() control.Profiles { return l.set },
		Listen:   listener(l.t),
	}
}

// listener returns an address on which nobody else listens. It is on a random loopback address, because another test
// could get a free port of 127.0.0.1 before the process listens on it.
func listener(t *testing.T) *config.Listen {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.1:0", 1+rand.IntN(254), rand.IntN(256)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return &config.Listen{Address: l.Addr().String(), Advertise: l.Addr().String()}
}

func (l *lab) control(name string, addresses []string) Options {
	o := l.options(name)
	o.CA = filepath.Join(l.dir, "ca")
	o.Consul = &consul.Options{Addresses: addresses, Prefix: "drover"}
	return o
}

// agent returns the options of an agent that has joined: it has a certificate.
func (l *lab) agent(name string, replicas ...Options) Options {
	l.t.Helper()
	o := l.options(name)
	o.PluginDir, o.Driver, o.Profiles, o.Backends = filepath.Join(o.Root, "plugins"), "drover", nil, backends.NewRegistry(dir.Backend{})
	o.Pools = []pool.Config{{Name: "plain", Backend: "dir", Path: filepath.Join(l.dir, "pool-"+name)}}
	for _, r := range replicas {
		o.Replicas = append(o.Replicas, r.Listen.Advertise)
	}
	pair, err := l.ca.Issue(pki.Identity{Cluster: l.ca.Cluster(), Kind: pki.Node, Node: uuid.New(), Name: name}, time.Now())
	if err == nil {
		err = os.MkdirAll(filepath.Join(o.Root, "tls"), 0o700)
	}
	if err == nil {
		err = pair.Save(pki.NodeFiles(filepath.Join(o.Root, "tls")))
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return o
}

// running is a process of Drover, which runs until it is stopped.
type running struct {
	stop context.CancelFunc
	done chan error
}

// start starts a process, and returns when it serves.
func (l *lab) start(what func(context.Context, Options) error, o Options) *running {
	l.t.Helper()
	ctx, cancel := context.WithCancel(l.t.Context())
	r := &running{stop: cancel, done: make(chan error, 1)}
	ready := make(chan struct{})
	o.Ready = func() { close(ready) }
	go func() { r.done <- what(ctx, o) }()
	l.t.Cleanup(func() { r.end(l.t) })
	select {
	case <-ready:
	case err := <-r.done:
		r.stop = nil
		cancel()
		l.t.Fatalf("%s ended: %v", o.NodeName, err)
	}
	return r
}

func (r *running) end(t *testing.T) {
	t.Helper()
	if r.stop == nil {
		return
	}
	r.stop()
	if err := <-r.done; err != nil {
		t.Errorf("end: %v", err)
	}
	r.stop = nil
}

// ask returns a client of a unix socket.
func (l *lab) ask(socket string) *client.Client {
	l.t.Helper()
	c, err := client.New("unix://" + socket)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(c.Close)
	return c
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// A volume is created through the host of an agent, by either replica. Both replicas and the socket of the agent show
// it. If the replica that the agent uses stops, the agent uses the other one.
func TestControlAndAgent(t *testing.T) {
	c := testconsul.Start(t, testconsul.Options{})
	l := newLab(t)
	replicas := []Options{l.control("c1", c.Addresses()), l.control("c2", c.Addresses())}
	var up []*running
	for _, o := range replicas {
		up = append(up, l.start(Control, o))
	}
	o := l.agent("n1", replicas...)
	l.start(Agent, o)
	users := l.ask(o.apiSocket())
	create := func(name string) {
		t.Helper()
		out, err := users.Submit(soon(t), api.Request{Kind: dataset.OpCreate, Volume: name})
		if err != nil {
			t.Fatal(err)
		}
		for op := *out.Operation; ; {
			if op, err = users.Operation(soon(t), op.ID.String(), time.Minute); err != nil || op.Problem != nil {
				t.Fatal(op.Problem, err)
			}
			if op.State.Final() {
				break
			}
		}
	}
	create("db@bronze")
	for _, socket := range []string{replicas[0].controlSocket(), replicas[1].controlSocket(), o.apiSocket()} {
		if v, err := l.ask(socket).Volume(soon(t), "db"); err != nil || v.Node != "n1" {
			t.Errorf("%s: %+v, %v", socket, v, err)
		}
	}
	for _, o := range replicas { // each gets the status of the pool, and knows that the node is alive
		c := l.ask(o.controlSocket())
		pools, err := c.Pools(soon(t))
		if err != nil || len(pools) != 1 || pools[0].Status == nil || !pools[0].Status.Online {
			t.Errorf("%s: %+v, %v", o.NodeName, pools, err)
		}
		if nodes, err := c.NodeList(soon(t), ""); err != nil || len(nodes) != 1 || !nodes[0].Live || nodes[0].Address == "" {
			t.Errorf("%s: %+v, %v", o.NodeName, nodes, err)
		}
	}
	for i, r := range up {
		r.end(t)
		create(fmt.Sprintf("more%d", i))
		if i == 0 {
			up[1].end(t)
			if v, err := users.Volume(soon(t), "db"); err != nil || v.Volume != "db" {
				t.Errorf("all replicas are away: volume db is %+v, error %v; want what the host knows", v, err)
			}
			if _, err := users.Volume(soon(t), "elsewhere"); dataset.KindOf(err) != dataset.ErrUnavailable {
				t.Errorf("all replicas are away: volume elsewhere: error %v, want ErrUnavailable", err)
			}
			l.start(Control, replicas[0])
			break
		}
	}
	create("again")
}

// While Consul is unreachable, control serves and returns that error. It continues when Consul is reachable again.
func TestControlWithoutConsul(t *testing.T) {
	c := testconsul.Start(t, testconsul.Options{})
	c.Servers[0].Stop()
	l := newLab(t)
	o := l.control("c1", c.Addresses())
	l.start(Control, o)
	client := l.ask(o.controlSocket())
	if _, err := client.Volume(soon(t), "db"); dataset.KindOf(err) != dataset.ErrUnavailable || !strings.Contains(err.Error(), "consul") {
		t.Errorf("%v", err)
	}
	c.Servers[0].Start()
	c.AwaitLeader()
	if _, err := client.Volume(soon(t), "db"); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// A peer that is not a member of the cluster is refused.
func TestStrangersStayOutside(t *testing.T) {
	l := newLab(t)
	o := l.control("c1", []string{"http://127.0.0.1:1"})
	l.start(Control, o)
	other, err := pki.Create(filepath.Join(l.dir, "other"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := other.Issue(pki.Identity{Cluster: other.Cluster(), Kind: pki.Node, Node: uuid.New(), Name: "n1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	mine, err := l.ca.Issue(pki.Identity{Cluster: l.ca.Cluster(), Kind: pki.Node, Node: uuid.New(), Name: "n1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		pair *pki.Pair
		kind *dataset.Kind
		says string
	}{
		"of another cluster": {pair, dataset.ErrForbidden, "belongs to cluster"},
		"of this one":        {mine, dataset.ErrUnavailable, "the store does not respond"},
	} {
		cfg := pki.NewCredentials(tc.pair, clock.System{}, nil).Client(pki.Control)
		if name == "of another cluster" {
			cfg.VerifyConnection = nil
		}
		client, err := client.NewTLS("https://"+o.Listen.Advertise, cfg)
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Volume(soon(t), "db")
		client.Close()
		if dataset.KindOf(err) != tc.kind || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
