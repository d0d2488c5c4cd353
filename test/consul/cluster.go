// Package consul starts real Consul servers for tests: one or three, of the version that tools/consul pins, on separate
// addresses of the loopback network. A test can kill, stop, pause and start each of them, find the leader, and take and
// restore snapshots. If the test fails, the logs of the servers are shown. Packages test/cluster and test/chaos, and
// tests of the store in Consul, call it. A [Server] owns its process and its folder, and a mutex protects the process.
package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/lan"
	"github.com/droverhq/drover/test/require"
)

// Options describe a cluster.
type Options struct {
	Servers int // number of servers; 0: one
	// On lists the machines of the servers, one for each. Servers is ignored then. If empty, the servers run on
	// this machine.
	On  []*lan.Machine
	ACL bool // refuse everything that no token allows; Cluster.Token allows everything
	TLS bool // serve only https, and require certificates of the cluster's authority
	// Config is merged into each server's configuration.
	Config map[string]any
}

// Cluster is a cluster of Consul servers.
type Cluster struct {
	Servers []*Server
	Token   string // with Options.ACL
	PKI     *PKI   // with Options.TLS

	tb   testing.TB
	opts Options
}

// patience limits every wait.
const patience = 90 * time.Second

// Start starts a cluster and returns when it has a leader. It ends with the test.
func Start(tb testing.TB, opts Options) *Cluster {
	tb.Helper()
	binary, err := engine.Script("tools.sh", "consul")
	require.NoError(tb, err)
	c := &Cluster{tb: tb, opts: opts}
	if opts.ACL {
		c.Token = uuidLike()
	}
	dir := tb.TempDir()
	if opts.TLS {
		c.PKI = NewPKI(tb, filepath.Join(dir, "pki"))
	}
	ips := addresses(opts)
	for n, ip := range ips {
		s := &Server{
			Name:    fmt.Sprintf("server%d", n+1),
			IP:      ip,
			tb:      tb,
			cluster: c,
			binary:  binary,
			dir:     filepath.Join(dir, ip),
		}
		if len(opts.On) > 0 {
			s.On = opts.On[n]
		}
		require.NoError(tb, os.MkdirAll(s.dir, 0o700))
		s.writeConfig(c.config(s, ips))
		c.Servers = append(c.Servers, s)
	}
	tb.Cleanup(c.stop)
	for _, s := range c.Servers {
		s.Start()
	}
	c.AwaitLeader()
	return c
}

func (c *Cluster) stop() {
	for _, s := range c.Servers {
		s.Resume()
		s.Kill()
		if c.tb.Failed() {
			s.showLog()
		}
	}
}

// addresses returns the addresses of the machines. Without machines it chooses a network of the loopback
// interface that others are unlikely to use, so that every server can use the default ports of Consul.
func addresses(opts Options) []string {
	var ips []string
	for _, m := range opts.On {
		ips = append(ips, m.IP)
	}
	for len(ips) == 0 {
		net24 := fmt.Sprintf("127.%d.%d.", 1+rand.IntN(254), rand.IntN(256))
		l, err := net.Listen("tcp", net24+"1:8300")
		if err != nil {
			continue
		}
		l.Close()
		for i := range max(opts.Servers, 1) {
			ips = append(ips, fmt.Sprint(net24, i+1))
		}
	}
	return ips
}

func uuidLike() string {
	return fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", rand.Uint32(), rand.IntN(1<<16), rand.IntN(1<<12),
		rand.IntN(1<<12), rand.Uint64()>>16)
}

// config returns the configuration of one server. Only the timers of a leader are shortened, so that the TTL of a
// session can be as short as a second.
func (c *Cluster) config(s *Server, ips []string) map[string]any {
	cfg := map[string]any{
		"server": true, "bootstrap_expect": len(ips), "retry_join": ips, "retry_interval": "1s",
		"node_name": s.Name, "datacenter": "dc1", "data_dir": filepath.Join(s.dir, "data"),
		"bind_addr": s.IP, "client_addr": s.IP, "advertise_addr": s.IP,
		"session_ttl_min": "1s", "disable_update_check": true, "disable_coordinates": true,
		"disable_remote_exec": true, "log_level": "INFO",
		"performance": map[string]any{"raft_multiplier": 1},
		"ports":       map[string]any{"http": 8500, "dns": -1, "grpc": -1, "grpc_tls": -1, "serf_wan": -1},
		"connect":     map[string]any{"enabled": false},
	}
	if c.opts.ACL {
		cfg["acl"] = map[string]any{
			"enabled": true, "default_policy": "deny", "enable_token_persistence": false,
			"tokens": map[string]any{"initial_management": c.Token, "agent": c.Token},
		}
	}
	if c.PKI != nil {
		cert, key := c.PKI.Issue(c.tb, s.Name, s.IP)
		cfg["ports"] = map[string]any{"http": -1, "https": 8501, "dns": -1, "grpc": -1, "grpc_tls": -1, "serf_wan": -1}
		cfg["tls"] = map[string]any{
			"https": map[string]any{"ca_file": c.PKI.CA, "cert_file": cert, "key_file": key, "verify_incoming": true},
		}
	}
	for k, v := range c.opts.Config {
		cfg[k] = v
	}
	return cfg
}

// Addresses returns the addresses of all servers in the form of drover.yaml.
func (c *Cluster) Addresses() []string {
	var list []string
	for _, s := range c.Servers {
		list = append(list, c.address(s))
	}
	return list
}

func (c *Cluster) address(s *Server) string {
	if c.PKI != nil {
		return "https://" + s.IP + ":8501"
	}
	return "http://" + s.IP + ":8500"
}

// Client returns a client of the first server with all rights.
func (c *Cluster) Client() *api.Client {
	c.tb.Helper()
	client, err := c.client(c.Servers[0])
	require.NoError(c.tb, err)
	return client
}

func (c *Cluster) client(s *Server) (*api.Client, error) {
	cfg := &api.Config{Address: c.address(s), Token: c.Token}
	transport := &http.Transport{DisableKeepAlives: true}
	if c.PKI != nil {
		transport.TLSClientConfig = c.PKI.client(c.tb)
	}
	if s.On != nil {
		transport.DialContext = s.On.Dial
	}
	cfg.HttpClient = &http.Client{Transport: transport}
	return api.NewClient(cfg)
}

// AwaitLeader returns when a server answers consistent reads. It does not poll: a server without a leader holds
// the request until there is one (7 s at most).
func (c *Cluster) AwaitLeader() {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for n := 0; ; n++ {
		s := c.Servers[n%len(c.Servers)]
		if !s.running() {
			if n > 1000 {
				c.tb.Fatal("no server runs")
			}
			continue
		}
		client, err := c.client(s)
		if err == nil {
			_, _, err = client.KV().Get("none", (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
		}
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			c.tb.Fatalf("no leader within %s: %v", patience, err)
		}
		pause(ctx, 20*time.Millisecond) // do not ask a server that refuses connections without a pause
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Leader returns the server that leads. The test fails if none does.
func (c *Cluster) Leader() *Server {
	c.tb.Helper()
	c.AwaitLeader()
	for _, s := range c.Servers {
		if !s.running() {
			continue
		}
		host := s.Leads()
		for _, l := range c.Servers {
			if l.IP == host {
				return l
			}
		}
	}
	c.tb.Fatal("no server leads")
	return nil
}

// Leads returns the address of the leader that this server knows. It is empty if the server knows none, or does
// not answer within a second.
func (s *Server) Leads() string {
	client, err := s.cluster.client(s)
	require.NoError(s.tb, err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	at, err := client.Status().LeaderWithQueryOptions((&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return ""
	}
	host, _, _ := strings.Cut(at, ":")
	return host
}

// Snapshot returns a snapshot of the present state.
func (c *Cluster) Snapshot() []byte {
	c.tb.Helper()
	var b []byte
	c.patiently("snapshot", func(client *api.Client) error {
		r, _, err := client.Snapshot().Save(nil)
		if err != nil {
			return err
		}
		defer r.Close()
		b, err = io.ReadAll(r)
		return err
	})
	return b
}

// patiently repeats a request to the first server until it succeeds. A server that was just started does not know
// the leader yet.
func (c *Cluster) patiently(what string, ask func(*api.Client) error) {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		err := ask(c.Client())
		if err == nil {
			return
		}
		if pause(ctx, 50*time.Millisecond); ctx.Err() != nil {
			c.tb.Fatalf("%s: not within %s: %v", what, patience, err)
		}
	}
}

// Restore restores the cluster from a snapshot.
func (c *Cluster) Restore(snapshot []byte) {
	c.tb.Helper()
	c.patiently("restore", func(client *api.Client) error {
		return client.Snapshot().Restore(nil, bytes.NewReader(snapshot))
	})
}

// RaftIndex returns the last index in the log of a server. It stays the same while nothing changes in the
// cluster, except for the housekeeping of Consul.
func (c *Cluster) RaftIndex() string {
	c.tb.Helper()
	self, err := c.Client().Agent().Self()
	require.NoError(c.tb, err)
	raft, ok := self["Stats"]["raft"].(map[string]any)
	if !ok {
		c.tb.Fatal("no raft figures")
	}
	return fmt.Sprint(raft["last_log_index"])
}

// NewToken creates a token with a policy of these rules and returns its secret.
func (c *Cluster) NewToken(rules string) string {
	c.tb.Helper()
	acl := c.Client().ACL()
	p, _, err := acl.PolicyCreate(&api.ACLPolicy{Name: "p" + uuidLike(), Rules: rules}, nil)
	require.NoErrorf(c.tb, err, "policy")
	t, _, err := acl.TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: p.ID}}}, nil)
	require.NoErrorf(c.tb, err, "token")
	return t.SecretID
}

func encode(v any) []byte {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		panic(err) // maps of plain values can always be encoded
	}
	return b
}
