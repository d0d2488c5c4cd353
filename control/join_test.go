package control

import (
	"context"
	"crypto/x509"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// newCluster is an environment with an authority.
func newCluster(t *testing.T) (*env, *pki.Authority) {
	t.Helper()
	e := newEnv(t)
	ca, err := pki.Create(filepath.Join(t.TempDir(), "ca"), someday)
	if err != nil {
		t.Fatal(err)
	}
	e.Admission.Authority = func() (*pki.Authority, error) { return ca, nil }
	return e, ca
}

func (e *env) token(name string) string {
	e.Helper()
	tok, err := e.MakeToken(e.ctx, api.NewToken{Name: name})
	if err != nil {
		e.Fatalf("%v", err)
	}
	return tok.Token
}

func asks(t tb, token, name string) (api.Join, *pki.Request) {
	t.Helper()
	req, err := pki.NewRequest()
	if err != nil {
		t.Fatalf("%v", err)
	}
	return api.Join{Token: token, Name: name, Request: req.PEM}, req
}

// joins expects to be let in.
func (e *env) joins(in api.Join) api.Joined {
	e.Helper()
	out, err := e.Join(e.ctx, in)
	if err != nil {
		e.Fatalf("%v", err)
	}
	return out
}

func as(id pki.Identity) context.Context {
	return api.WithPrincipal(context.Background(), api.Principal{Identity: id, From: "192.0.2.1:5"})
}

func nodeNamed(name string, id uuid.UUID) pki.Identity {
	return pki.Identity{Kind: pki.Node, Node: id, Name: name}
}

func TestJoin(t *testing.T) {
	e, ca := newCluster(t)
	token := e.token("")
	in, req := asks(t, token, "alpha")
	out := e.joins(in)
	pair, err := req.Pair(out.Certificate)
	if err != nil || pair.Identity != (pki.Identity{Cluster: ca.Cluster(), Kind: pki.Node, Node: out.Node, Name: "alpha"}) {
		t.Fatalf("%+v, %v", pair, err)
	}
	nodes, err := e.NodeList(e.ctx, "")
	if err != nil || len(nodes) != 1 || nodes[0].ID != out.Node || nodes[0].Name != "alpha" {
		t.Errorf("%+v, %v", nodes, err)
	}
	// Who did not hear the answer asks again, and is the same.
	again := e.joins(in)
	if again.Node != out.Node || again.Certificate.Chain == out.Certificate.Chain {
		t.Errorf("%+v", again)
	}
	other, _ := asks(t, token, "beta")
	_, err = e.Join(e.ctx, other)
	refused(t, err, dataset.ErrForbidden, "was used at 2026-11-18T12:00:00Z by node alpha", "drover node token")
	if strings.Contains(err.Error(), token) {
		t.Error("a secret:", err)
	}
	entries, err := e.spy.List(e.ctx, "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if strings.Contains(entry.Key+string(entry.Value), strings.TrimPrefix(token, "drover-join-")[:20]) {
			t.Errorf("the secret is on record: %s %s", entry.Key, entry.Value)
		}
	}
}

func TestJoinRefuses(t *testing.T) {
	e, ca := newCluster(t)
	known := e.agent("alpha")
	old := e.token("")
	e.clock.Advance(61 * time.Minute)
	gone := e.agent("omega")
	if _, err := e.RemoveNode(e.ctx, "omega", false); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*api.Join)
		kind   *dataset.Kind
		want   string
	}{
		"garbage":       {func(j *api.Join) { j.Token = "sesame" }, dataset.ErrInvalid, "bad join token"},
		"never made":    {func(j *api.Join) { j.Token = pki.NewToken(ca.Fingerprint()).Reveal() }, dataset.ErrForbidden, "is not one of this cluster's, or has expired"},
		"expired":       {func(j *api.Join) { j.Token = old }, dataset.ErrForbidden, "expired at 2026-11-18T13:00:00Z, and control's clock says 2026-11-18T13:01:00Z"},
		"bad name":      {func(j *api.Join) { j.Name = "a/b" }, dataset.ErrInvalid, "bad name"},
		"taken name":    {func(j *api.Join) { j.Name = "alpha" }, dataset.ErrExists, "a node called alpha is there (" + known.id.String()},
		"known node":    {func(j *api.Join) { j.Node = known.id }, dataset.ErrExists, "drover node token --name alpha"},
		"removed node":  {func(j *api.Join) { j.Node = gone.id }, dataset.ErrForbidden, "was removed, and cannot come back as what it was"},
		"no request":    {func(j *api.Join) { j.Request = "" }, dataset.ErrInvalid, "bad certificate request"},
		"large request": {func(j *api.Join) { j.Request = strings.Repeat("a", pki.MaxRequest+1) }, dataset.ErrInvalid, "too large"},
	} {
		in, _ := asks(t, e.token(""), "beta")
		c.change(&in)
		_, err := e.Join(e.ctx, in)
		if err == nil {
			t.Errorf("%s: let in", name)
			continue
		}
		refused(t, err, c.kind, c.want)
	}
	if nodes, err := e.NodeList(e.ctx, ""); err != nil || len(nodes) != 1 {
		t.Errorf("what was refused left something: %+v, %v", nodes, err)
	}
}

// A token with the name of a node that is there is for that one alone.
func TestComeBack(t *testing.T) {
	e, _ := newCluster(t)
	a, b := e.agent("alpha"), e.agent("beta")
	d := a.create("db@gold")
	in, req := asks(t, e.token("alpha"), "gamma")
	_, err := e.Join(e.ctx, in)
	refused(t, err, dataset.ErrForbidden, "the token is for node alpha to come back, and this host is called gamma", "--node-name alpha")
	in.Name, in.Node = "alpha", b.id
	_, err = e.Join(e.ctx, in)
	refused(t, err, dataset.ErrExists, "the token is for node alpha")
	in.Node = uuid.Nil // the host has lost all it knew
	out := e.joins(in)
	pair, err := req.Pair(out.Certificate)
	if err != nil || out.Node != a.id || pair.Identity.Name != "alpha" {
		t.Fatal(out, err)
	}
	if v := e.volume("db"); v.ID != d.ID || v.Home != a.id {
		t.Errorf("%+v", v)
	}
	if nodes, err := e.NodeList(e.ctx, ""); err != nil || len(nodes) != 2 || len(nodes[0].Pools) != 2 {
		t.Errorf("%+v, %v", nodes, err)
	}
}

// Of hosts that show one token at the same time, one is let in.
func TestJoinOnce(t *testing.T) {
	e, _ := newCluster(t)
	token := e.token("")
	var in sync.Mutex
	var all sync.WaitGroup
	won := 0
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		ask, _ := asks(t, token, name)
		all.Go(func() {
			if _, err := e.Join(e.ctx, ask); err == nil {
				in.Lock()
				won++
				in.Unlock()
			}
		})
	}
	all.Wait()
	nodes, err := e.NodeList(e.ctx, "")
	if won != 1 || err != nil || len(nodes) != 1 {
		t.Errorf("%d were let in: %+v, %v", won, nodes, err)
	}
}

func TestTokens(t *testing.T) {
	e, _ := newCluster(t)
	for _, ttl := range []string{"59s", "169h", "-1h", "soon", "1"} {
		_, err := e.MakeToken(e.ctx, api.NewToken{TTL: ttl})
		refused(t, err, dataset.ErrInvalid, "want 1m0s to 168h0m0s")
	}
	_, err := e.MakeToken(e.ctx, api.NewToken{Name: "a b"})
	refused(t, err, dataset.ErrInvalid, "bad name")
	e.token("")
	e.clock.Advance(membership.TokenKept + 2*time.Hour)
	e.token("")
	if left, err := e.spy.List(e.ctx, record.TokensPrefix, "", 0); err != nil || len(left) != 1 {
		t.Errorf("%d tokens are kept, %v", len(left), err)
	}
	e.Admission.Authority = nil
	_, err = e.MakeToken(e.ctx, api.NewToken{})
	refused(t, err, dataset.ErrUnsupported, "drover control")
}

func TestCertify(t *testing.T) {
	e, _ := newCluster(t)
	a := e.agent("alpha")
	req, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	signed, err := e.Certify(e.ctx, a.id, api.Certification{Request: req.PEM})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := req.Pair(signed); err != nil || p.Identity.Node != a.id || p.Identity.Name != "alpha" {
		t.Error(p, err)
	}
	_, err = e.Certify(e.ctx, uuid.New(), api.Certification{Request: req.PEM})
	refused(t, err, dataset.ErrForbidden, "was removed")
	_, err = e.Certify(e.ctx, a.id, api.Certification{})
	refused(t, err, dataset.ErrInvalid, "bad certificate request")
}

func certificate(t *testing.T, ca *pki.Authority, id pki.Identity, now time.Time) *x509.Certificate {
	t.Helper()
	p, err := ca.Issue(id, now)
	if err != nil {
		t.Fatal(err)
	}
	return p.Chain[0]
}

func TestRemoveNode(t *testing.T) {
	e, ca := newCluster(t)
	a, b := e.agent("alpha"), e.agent("beta")
	id := nodeNamed("alpha", a.id)
	cert := certificate(t, ca, id, someday)
	d := a.create("db@gold")
	if err := e.Revoked(id, cert); err != nil {
		t.Fatal(err)
	}
	_, err := e.RemoveNode(e.ctx, "alpha", false)
	refused(t, err, dataset.ErrInUse, "node alpha is the home of db: move them first", "--force")
	if err := e.Revoked(id, cert); err != nil {
		t.Error("a refusal had an effect:", err)
	}
	move := *e.submit(moveTo("db", "beta")).Operation // which b would do: it lives
	n, err := e.RemoveNode(e.ctx, "alpha", true)
	if err != nil || n.Removed.IsZero() || !n.Cordoned {
		t.Fatalf("%+v, %v", n, err)
	}
	refused(t, e.Revoked(id, cert), dataset.ErrForbidden, "node alpha ("+a.id.String()+") was removed from the cluster")
	if err := e.Revoked(nodeNamed("beta", b.id), cert); err != nil {
		t.Error(err)
	}
	// Nothing of it is taken any more, whatever a replica that has not heard lets in.
	refused(t, e.Register(e.ctx, api.Registration{Node: dataset.Node{ID: a.id, Name: "alpha", Incarnation: uuid.New()}}), dataset.ErrForbidden, "was removed")
	refused(t, e.Heartbeat(e.ctx, a.id, api.Heartbeat{Incarnation: a.incarnation}), dataset.ErrForbidden, "was removed")
	_, err = e.MakeToken(e.ctx, api.NewToken{Name: "alpha"})
	refused(t, err, dataset.ErrForbidden, "was removed")
	if v := e.volume("db"); v.ID != d.ID || v.Home != a.id {
		t.Errorf("the volume: %+v", v)
	}
	if op := e.operationNow(move.ID); op.State.Final() {
		t.Errorf("the move to a node that lives: %+v", op)
	}
	// Asked again nothing changes, until the volume has another home.
	if n, err := e.RemoveNode(e.ctx, a.id.String()[:8], true); err != nil || n.Removed.IsZero() {
		t.Errorf("%+v, %v", n, err)
	}
	e.check()
}

// A node on which nothing hangs goes, with its pools, what it had to do and what it kept.
func TestRemoveEmptyNode(t *testing.T) {
	e, ca := newCluster(t)
	a, b := e.agent("alpha"), e.agent("beta")
	a.create("db@gold")
	e.moved("db", a, b, "beta") // alpha keeps a copy
	b.create("web")
	towards := *e.submit(moveTo("web", "alpha")).Operation
	if _, err := e.RemoveNode(e.ctx, "alpha", false); err != nil {
		t.Fatal(err)
	}
	if op := e.operationNow(towards.ID); op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, "was removed") {
		t.Errorf("%+v", op)
	}
	entries, err := e.spy.List(e.ctx, "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if strings.Contains(entry.Key, a.id.String()) && entry.Key != record.RevokedNodeKey(a.id) || strings.HasPrefix(entry.Key, record.PoolsPrefix) && strings.Contains(string(entry.Value), a.id.String()) {
			t.Errorf("left: %s %s", entry.Key, entry.Value)
		}
	}
	if d := e.volume("db"); len(d.Copies) != 0 || d.Home != b.id {
		t.Errorf("%+v", d)
	}
	refused(t, e.Revoked(nodeNamed("alpha", a.id), certificate(t, ca, nodeNamed("alpha", a.id), e.clock.Now())), dataset.ErrForbidden, "was removed")
	_, err = e.RemoveNode(e.ctx, "alpha", false)
	refused(t, err, dataset.ErrInvalid, "unknown node")
	e.check()
}
