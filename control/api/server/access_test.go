package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/internal/requestid"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// documented is one endpoint of the OpenAPI document.
type documented struct {
	method, path, id, tag string
	accepts               bool // the response 202 is among its responses
	lists                 bool // it reads a list
}

// endpoints returns every endpoint.
func endpoints(t *testing.T) (all []documented) {
	t.Helper()
	h := Handler(Deps{Service: newFake()})
	_, body := raw(t, h, "GET", "/v1/openapi.json", "")
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string
			Tags        []string
			Responses   map[string]any
		}
	}
	require.NoError(t, json.Unmarshal([]byte(body), &doc))
	for path, methods := range doc.Paths {
		for method, op := range methods {
			all = append(all, documented{strings.ToUpper(method), path, op.OperationID, op.Tags[0], op.Responses["202"] != nil,
				method == "get" && strings.Contains(fmt.Sprint(op.Responses["200"]), "/schemas/List")})
		}
	}
	return all
}

// Every row has a handler, and every handler a row. The endpoints of agents are for the node in their path.
func TestEveryRowHasAHandler(t *testing.T) {
	rows := map[string]endpoint.Endpoint{}
	for _, e := range endpoint.All {
		if _, twice := rows[e.ID]; twice {
			t.Errorf("two rows have the ID %s", e.ID)
		}
		rows[e.ID] = e
		access := e.Access
		if own := e.Tag == "agents" && !access.Anonymous; own != (access.Nodes == endpoint.OwnNode) {
			t.Errorf("%s with tag %s: %+v", e.ID, e.Tag, access)
		}
		if access.Nodes == endpoint.OwnNode && !strings.HasPrefix(e.Path, "/v1/nodes/{node}/") {
			t.Errorf("%s is for one node, and the path does not name it", e.ID)
		}
		reads := e.Method == "GET"
		if !reads && access.Role == pki.Viewer || access.Anonymous && e.ID != endpoint.Join.ID || access == (endpoint.Access{}) {
			t.Errorf("%s: %+v", e.ID, access)
		}
	}
	for _, e := range endpoints(t) {
		if row := rows[e.id]; row.Method != e.method || row.Path != e.path {
			t.Errorf("%s %s has the row %+v", e.method, e.path, row)
		}
		delete(rows, e.id)
	}
	if len(rows) > 0 {
		t.Errorf("rows without a handler: %v", slices.Sorted(maps.Keys(rows)))
	}
}

// flock is the authority of a cluster, and a server of the API on the loopback interface.
type flock struct {
	t       *testing.T
	ca      *pki.Authority
	clock   *fakes.Clock
	address string

	mu      sync.Mutex
	changes []api.Change
	revoked map[string]error
}

var (
	flockStart = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	nodeA      = pki.Identity{Kind: pki.Node, Node: uuid.MustParse("11111111-2222-4333-8444-555555555555"), Name: "a"}
	nodeB      = pki.Identity{Kind: pki.Node, Node: uuid.MustParse("22222222-2222-4333-8444-555555555555"), Name: "b"}
	controlC   = pki.Identity{Kind: pki.Control, Name: "c1"}
)

func operator(role pki.Role) pki.Identity {
	return pki.Identity{Kind: pki.Operator, Role: role, Name: "bob"}
}

func newFlock(t *testing.T, d Deps) *flock {
	t.Helper()
	f := &flock{t: t, clock: fakes.NewClock(flockStart), revoked: map[string]error{}}
	var err error
	if f.ca, err = pki.Create(filepath.Join(t.TempDir(), "ca"), flockStart); err != nil {
		t.Fatal(err)
	}
	own := pki.NewCredentials(f.pair(controlC), f.clock, func(id pki.Identity, _ *x509.Certificate) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.revoked[id.Name]
	})
	d.Peer, d.Audit = own.VerifyPeer, func(c api.Change) { f.mu.Lock(); defer f.mu.Unlock(); f.changes = append(f.changes, c) }
	f.address = serveTLS(t, Handler(d), own)
	return f
}

// serveTLS serves on the loopback interface until the test ends.
func serveTLS(t *testing.T, h http.Handler, own *pki.Credentials) (address string) {
	t.Helper()
	s := New(h)
	s.ErrorLog = log.New(io.Discard, "", 0)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(tls.NewListener(l, own.UnverifiedServer())) }) // Serve always returns an error
	t.Cleanup(func() { s.Close(); serving.Wait() })
	return l.Addr().String()
}

func (f *flock) pair(id pki.Identity) *pki.Pair {
	f.t.Helper()
	p, err := f.ca.Issue(id, f.clock.Now())
	require.NoError(f.t, err)
	return p
}

// believing returns a client configuration with a certificate that accepts every server.
func believing(p *pki.Pair) *tls.Config {
	cfg := &tls.Config{InsecureSkipVerify: true}
	if p != nil {
		c := tls.Certificate{PrivateKey: p.Key}
		for _, cert := range p.Chain {
			c.Certificate = append(c.Certificate, cert.Raw)
		}
		cfg.Certificates = []tls.Certificate{c}
	}
	return cfg
}

// ask makes a request and returns the error in the answer, or nil.
func (f *flock) ask(cfg *tls.Config, method, path, agent, body string) error {
	f.t.Helper()
	transport := &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "https://"+f.address+path, strings.NewReader(body))
	require.NoError(f.t, err)
	r.Header.Set("User-Agent", agent)
	r.Header.Set("Content-Type", "application/json")
	resp, err := transport.RoundTrip(r)
	require.NoError(f.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(f.t, err)
	if resp.StatusCode < 300 {
		return nil
	}
	var p wire.Problem
	require.NoErrorf(f.t, json.Unmarshal(text, &p), "%d %s", resp.StatusCode, text)
	return p.Err()
}

// took returns the lines of the audit log without the IDs of requests, which are random. The background work of a node
// has no ID.
func (f *flock) took() []api.Change {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.changes
	f.changes = nil
	for i := range c {
		if requestid.IsValid(c[i].Request) == strings.HasPrefix(c[i].Who, "node ") {
			f.t.Errorf("request %q of %s", c[i].Request, c[i].Who)
		}
		c[i].Request = ""
	}
	return c
}

// Over real TLS, everybody who is refused gets one line that says why.
func TestWhoIsLetIn(t *testing.T) {
	f := newFlock(t, Deps{Service: newFake(), Version: "v1.4.0"})
	foreign, err := pki.Create(filepath.Join(t.TempDir(), "ca"), flockStart)
	require.NoError(t, err)
	strange, err := foreign.Issue(nodeA, flockStart)
	require.NoError(t, err)
	late, err := f.ca.Issue(nodeA, flockStart.Add(2*time.Hour))
	require.NoError(t, err)
	own := "/v1/nodes/" + nodeA.Node.String() + "/heartbeat"
	post := func(p *pki.Pair, path string) error { return f.ask(believing(p), "POST", path, "", "{}") }
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"its own":       {post(f.pair(nodeA), own), ""},
		"another's":     {post(f.pair(nodeB), own), "node b (22222222-2222-4333-8444-555555555555) may not report the state of the node: an agent acts only for its own node, and this is node 11111111-2222-4333-8444-555555555555 (if the host is a copy of another, have it join separately)"},
		"admin":         {post(f.pair(operator(pki.Admin)), own), "operator bob (admin) may not report the state of the node: only agents do that, each for its own node"},
		"control":       {post(f.pair(controlC), own), "control c1 may not report the state of the node: that is for operators and agents"},
		"nobody":        {post(nil, own), "missing client certificate"},
		"other cluster": {post(strange, own), "the certificate of node a (11111111-2222-4333-8444-555555555555) belongs to cluster " + foreign.Cluster().String()},
		"not yet valid": {post(late, own), "this host's clock shows 2026-03-04T05:06:07Z, the certificate of node a (11111111-2222-4333-8444-555555555555) is valid from 2026-03-04T06:56:07Z"},
		"viewer reads":  {f.ask(believing(f.pair(operator(pki.Viewer))), "GET", "/v1/volumes", "", ""), ""},
		"viewer":        {f.ask(believing(f.pair(operator(pki.Viewer))), "DELETE", "/v1/volumes/db", "", ""), "operator bob (viewer) may not delete a volume: this requires the role operator (drover ca issue --role operator creates a certificate)"},
		"operator":      {f.ask(believing(f.pair(operator(pki.Worker))), "DELETE", "/v1/volumes/db", "", ""), ""},
		"operator's":    {f.ask(believing(f.pair(operator(pki.Worker))), "POST", "/v1/pools", "", "{}"), "operator bob (operator) may not create a pool on this host: this requires the role admin"},
		"node's":        {f.ask(believing(f.pair(nodeA)), "POST", "/v1/pools", "", "{}"), "node a (11111111-2222-4333-8444-555555555555) may not create a pool on this host: that is not for agents"},
		"no endpoint":   {post(f.pair(nodeA), "/v1/nothing"), "no such endpoint"},
		"no join":       {post(nil, "/v1/joinx"), "missing client certificate"},
		"old agent":     {f.ask(believing(f.pair(nodeA)), "POST", own, "drover/v1.2.9", "{}"), "node a (11111111-2222-4333-8444-555555555555) is drover v1.2.9 and control is v1.4.0: only neighbouring versions work together (upgrade node a (11111111-2222-4333-8444-555555555555) first"},
		"the one below": {f.ask(believing(f.pair(nodeA)), "POST", own, "drover/v1.3.0-rc1", "{}"), ""},
	} {
		if c.want == "" && c.err != nil || c.want != "" && (c.err == nil || !strings.HasPrefix(c.err.Error(), c.want)) {
			t.Errorf("%s: %v", name, c.err)
		}
		if forbidden := c.want != "" && name != "no endpoint"; forbidden != errors.Is(c.err, dataset.ErrForbidden) {
			t.Errorf("%s: %v", name, dataset.KindOf(c.err))
		}
	}
}

// The certificate of a connection is checked again for each request.
func TestLookedAtAgain(t *testing.T) {
	f := newFlock(t, Deps{Service: newFake()})
	transport := &http.Transport{TLSClientConfig: believing(f.pair(nodeA))}
	defer transport.CloseIdleConnections()
	ask := func() int {
		r, _ := http.NewRequestWithContext(soon(t), "GET", "https://"+f.address+"/v1/volumes", nil)
		resp, err := transport.RoundTrip(r)
		require.NoError(t, err)
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	if got := ask(); got != http.StatusOK {
		t.Fatal(got)
	}
	f.mu.Lock()
	f.revoked["a"] = dataset.Errorf(dataset.ErrForbidden, "node a was removed")
	f.mu.Unlock()
	if got := ask(); got != http.StatusForbidden {
		t.Error("revoked:", got)
	}
	f.mu.Lock()
	delete(f.revoked, "a")
	f.mu.Unlock()
	if got := ask(); got != http.StatusOK {
		t.Error(got)
	}
	f.clock.Advance(31 * 24 * time.Hour)
	if got := ask(); got != http.StatusForbidden {
		t.Error("expired:", got)
	}
}

// Over a network nobody may do anything without TLS. A caller over the unix socket may do everything.
func TestPlain(t *testing.T) {
	h := Handler(Deps{Service: newFake()})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := New(h)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	defer func() { s.Close(); serving.Wait() }()
	c, err := client.New("http://" + l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	if _, err := c.Volumes(soon(t), api.Page{}); !errors.Is(err, dataset.ErrForbidden) || !strings.Contains(err.Error(), "requires TLS") {
		t.Error(err)
	}
	var who api.Principal
	local, _ := overSocket(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g := frontHandler{next: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { who = api.PrincipalOf(r.Context()) })}
		g.ServeHTTP(w, r)
	}))
	_, _ = local.Volumes(soon(t), api.Page{}) // the answer does not matter, only the principal of the request
	if !who.Local || who.From != "uid 0" || who.String() != "local uid 0" {
		t.Errorf("%+v", who)
	}
}

// A caller without a certificate can only join, and its requests are limited.
func TestStrangersJoin(t *testing.T) {
	fk := newFake()
	f := newFlock(t, Deps{Service: fk, Members: fk})
	join := func(request string) error {
		return f.ask(believing(nil), "POST", endpoint.Join.Path, "", `{"token":"t","name":"a","csr":"`+request+`"}`)
	}
	require.NoError(t, join("r"))
	if got := f.took(); len(got) != 1 || got[0].Who != "nobody" || got[0].What != "join" || got[0].Target != "a" || got[0].Outcome != api.Done {
		t.Errorf("%+v", got)
	}
	asked := len(fk.take())
	for name, request := range map[string]string{"long": strings.Repeat("a", pki.MaxRequest+1), "huge": strings.Repeat("a", maxJoinBytes)} {
		assert.ErrorIsf(t, join(request), dataset.ErrInvalid, "%s", name)
	}
	if more := len(fk.take()); asked != 1 || more != 0 {
		t.Error("asked", asked, more)
	}
	// As many joins as the limit allows, and one more.
	in, out := make(chan struct{}), make(chan struct{})
	fk.mu.Lock()
	fk.block = func(context.Context) error { in <- struct{}{}; <-out; return nil }
	fk.mu.Unlock()
	var all sync.WaitGroup
	for range maxJoins {
		all.Go(func() {
			assert.NoError(t, join("r"))
		})
		<-in
	}
	if err := join("r"); !errors.Is(err, dataset.ErrUnavailable) || !strings.Contains(err.Error(), "too many hosts are joining at the same time") {
		t.Error(err)
	}
	close(out)
	all.Wait()
	// A host with an expired certificate can get a new one, since joining does not ask for the old one.
	assert.ErrorIs(t, f.ask(believing(nil), "GET", "/v1/trust", "", ""), dataset.ErrForbidden)
}
