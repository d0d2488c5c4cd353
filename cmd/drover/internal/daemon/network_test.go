package daemon

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/consul/api"
	"github.com/sirupsen/logrus"

	droverapi "github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/store/consul"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/config"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/assert"
	testconsul "github.com/droverhq/drover/test/consul"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// aNetwork serves on a port, as control does, until the end of the test. Its handler accepts only peers with a
// certificate.
func aNetwork(t *testing.T) (address string, node *tls.Config) {
	t.Helper()
	clk := clock.System{}
	ca, err := pki.Create(filepath.Join(t.TempDir(), "ca"), clk.Now())
	require.NoError(t, err)
	credentials := func(id pki.Identity) *pki.Credentials {
		pair, err := ca.Issue(id, clk.Now())
		require.NoError(t, err)
		return pki.NewCredentials(pair, clk, nil)
	}
	own := credentials(pki.Identity{Kind: pki.Control, Name: "control"})
	log := logrus.New()
	log.SetOutput(io.Discard)
	p := &process{Options: Options{Log: log, Listen: &config.Listen{Address: "127.0.0.1:0"}}}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := own.VerifyPeer(*r.TLS, pki.Node); err != nil {
			w.WriteHeader(http.StatusForbidden)
		}
	})
	e, err := p.network("network", own.UnverifiedServer(), handler, func(cs tls.ConnectionState) error {
		_, err := own.VerifyPeer(cs)
		return err
	})
	require.NoError(t, err)
	ended := make(chan error)
	go func() { ended <- e.server.Serve(e.Listener) }()
	t.Cleanup(func() {
		assert.NoError(t, e.server.(*http.Server).Close())
		assert.ErrorIs(t, <-ended, http.ErrServerClosed)
	})
	return e.Addr().String(), credentials(pki.Identity{Kind: pki.Node, Node: uuid.New(), Name: "node"}).Client(pki.Control)
}

func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(names)
}

// Strangers can hold as many connections as they can: idle, in the middle of a handshake or after it. They do not
// prevent a node from connecting, and they use no more descriptors than allowed.
func TestStrangersLockNoNodeOut(t *testing.T) {
	address, node := aNetwork(t)
	get := func(c *http.Client) (reused bool) {
		t.Helper()
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(g httptrace.GotConnInfo) { reused = g.Reused }})
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address, nil)
		require.NoError(t, err)
		resp, err := c.Do(req)
		require.NoErrorf(t, err, "a node is locked out")
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("a node is answered %s", resp.Status)
		}
		return reused
	}
	kept := &http.Client{Transport: &http.Transport{TLSClientConfig: node}}
	defer kept.CloseIdleConnections()
	get(kept)

	const strangers = 2 * maxAnonymous
	before := descriptors(t)
	for i := range strangers {
		c, err := net.Dial("tcp", address)
		require.NoError(t, err)
		defer c.Close()
		switch i % 16 {
		case 0: // the start of a handshake that never continues
			_, err = c.Write([]byte{22, 3, 1, 1, 0})
		case 1: // one without a certificate, and no request
			err = tls.Client(c, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(t.Context())
		}
		require.NoError(t, err)
	}
	fresh := &http.Client{Transport: &http.Transport{TLSClientConfig: node, DisableKeepAlives: true}}
	for range 50 {
		get(fresh)
	}
	if !get(kept) {
		t.Error("a node that was connected before lost its connection")
	}
	if held := descriptors(t) - before - strangers; held > maxAnonymous+16 {
		t.Errorf("strangers hold %d descriptors, want %d at most", held, maxAnonymous)
	}
}

// The log names closed connections once a minute.
func TestClosedConnectionsAreLogged(t *testing.T) {
	var out bytes.Buffer
	log := logrus.New()
	log.SetOutput(&out)
	clk := fakes.NewClock(time.Unix(0, 0))
	c := &closedLog{log: log, who: "peers without a certificate", limit: 4, clock: clk}
	for range 3 {
		for i := range 5 {
			c.add(netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", i)))
		}
		clk.Advance(closedEvery)
	}
	if n := strings.Count(out.String(), "limit 4"); n != 3 || !strings.Contains(out.String(), "count=5 from=192.0.2.0") {
		t.Errorf("%d lines:\n%s", n, &out)
	}
}

// awaitServices waits until the number of passing services with a name is want, and returns them.
func awaitServices(t *testing.T, c *testconsul.Cluster, name, filter string, want int) []*api.ServiceEntry {
	t.Helper()
	client, index := c.Client(), uint64(0)
	for begun := time.Now(); time.Since(begun) < time.Minute; {
		list, meta, err := client.Health().Service(name, "", true, &api.QueryOptions{WaitIndex: index, WaitTime: time.Second, Filter: filter})
		require.NoError(t, err)
		if len(list) == want {
			return list
		}
		index = meta.LastIndex
	}
	t.Fatalf("%s %s: not %d within a minute", name, filter, want)
	return nil
}

// Replicas and agents are services in Consul, which can be found by the facts of their hosts. They are removed when
// they stop in order. Between these two moments, nothing is written to the catalog.
func TestMembersInTheCatalog(t *testing.T) {
	c := testconsul.Start(t, testconsul.Options{})
	l := newLab(t)
	replica := func(name string) Options {
		o := l.control(name, c.Addresses())
		o.ControlTiming = membership.Timing{Session: 2 * time.Second, Housekeeping: 200 * time.Millisecond}
		o.Publish = []string{config.PublishConsul}
		return o
	}
	one, two := replica("c1"), replica("c2")
	first, second := l.start(Control, one), l.start(Control, two)
	n1 := l.agent("n1", one, two)
	n1.Labels = map[string]string{"rack": "r1"}
	node := l.start(Agent, n1)
	awaitServices(t, c, "drover-control", "", 2)
	found := awaitServices(t, c, "drover-agent", `"label.rack.r1" in Service.Tags and Service.Meta.drover_cpus != "0" and Service.Meta.drover_pool_plain == "true"`, 1)
	if v := found[0].Service; fmt.Sprint(v.Address, ":", v.Port) != n1.Listen.Advertise {
		t.Errorf("it is found at %s:%d, and is at %s", v.Address, v.Port, n1.Listen.Advertise)
	}
	// Drover's records in Consul change sometimes (uptime, facts). The catalog does not change.
	services := func() string {
		t.Helper()
		_, meta, err := c.Client().Catalog().Service("drover-agent", "", &api.QueryOptions{RequireConsistent: true})
		require.NoError(t, err)
		return fmt.Sprint(meta.LastIndex)
	}
	node.end(t)
	awaitServices(t, c, "drover-agent", "", 0)
	node = l.start(Agent, n1)
	awaitServices(t, c, "drover-agent", "", 1)
	before := services()
	first.end(t) // another replica may do the housekeeping afterwards
	awaitServices(t, c, "drover-control", "", 1)
	if now := services(); now != before {
		t.Errorf("agents were written at %s, and again at %s", before, now)
	}
	node.end(t)
	awaitServices(t, c, "drover-agent", "", 0)
	second.end(t)
	awaitServices(t, c, "drover-control", "", 0)
}

// If the token lacks the right for the catalog, control works, and its log names the missing lines of the policy.
func TestControlWithoutTheCatalog(t *testing.T) {
	c := testconsul.Start(t, testconsul.Options{ACL: true})
	l := newLab(t)
	o := l.control("c1", c.Addresses())
	o.Consul.Token = c.NewToken(consul.Policy("drover"))
	o.ControlTiming = membership.Timing{Session: 2 * time.Second, Housekeeping: 100 * time.Millisecond}
	hook := make(warned, 100)
	o.Log.AddHook(hook)
	p := l.start(Control, o)
	_, err := l.ask(o.controlSocket()).Volumes(soon(t), droverapi.Page{})
	assert.NoError(t, err)
	said := <-hook
	p.end(t)
	if !strings.Contains(said, `node "drover-services" { policy = "write" } service "drover-control"`) || len(hook) > 0 {
		t.Errorf("%q, and %d more", said, len(hook))
	}
}

// Only a process that knows the facts can publish them: a host publishes to the Swarm, and control to Consul.
func TestWherePublished(t *testing.T) {
	l := newLab(t)
	replica := l.control("c1", []string{"http://127.0.0.1:1"})
	node := l.agent("n1", replica)
	replica.Publish, node.Publish = []string{config.PublishSwarm}, []string{config.PublishConsul}
	alone := node
	alone.Replicas, alone.Listen = nil, nil
	slow, slower := replica, alone
	slow.TransferRate, slower.TransferRate, slower.Publish = 1<<20, 1<<20, nil
	lone := slower
	lone.TransferRate, lone.FencePrograms = 0, []string{}
	lists, listing := slower, replica
	lists.TransferRate, lists.ListAll, listing.ListAll = 0, true, true
	for err, want := range map[error]string{
		lone.CheckServe():      "control, transfers, fence_programs and list are for",
		replica.CheckControl(): "publish facts to swarm: not possible here: control is not part of a Swarm",
		node.CheckAgent(): "publish facts to consul: not possible here: control does that (set it for " +
			"drover control)",
		alone.CheckServe():     "publish facts to consul: not possible here",
		slow.CheckControl():    "pools, labels, transfers, cgroup_parents and list are for agents",
		slower.CheckServe():    "transfers, fence_programs and list are for the hosts of a cluster",
		lists.CheckServe():     "list are for the hosts of a cluster",
		listing.CheckControl(): "cgroup_parents and list are for agents",
	} {
		if dataset.KindOf(err) != dataset.ErrInvalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// warned receives the errors of logged warnings.
type warned chan string

func (w warned) Levels() []logrus.Level { return []logrus.Level{logrus.WarnLevel} }

func (w warned) Fire(e *logrus.Entry) error {
	w <- fmt.Sprint(e.Data["error"])
	return nil
}
