package membership_test

import (
	"encoding/pem"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func token(e *controltest.Control, name string) string {
	e.Helper()
	tok, err := e.MakeToken(e.Ctx, api.NewToken{Name: name})
	e.OK(err)
	return tok.Token
}

func asks(t controltest.TB, token, name string) (api.Join, *pki.Request) {
	t.Helper()
	req, err := pki.NewRequest()
	require.NoError(t, err)
	return api.Join{Token: token, Name: name, CSR: req.PEM}, req
}

// joins expects that the node is admitted.
func joins(e *controltest.Control, in api.Join) api.Joined {
	e.Helper()
	out, err := e.Join(e.Ctx, in)
	e.OK(err)
	return out
}

func TestJoin(t *testing.T) {
	e, ca := controltest.NewWithAuthority(t)
	token := token(e, "")
	in, req := asks(t, token, "alpha")
	out := joins(e, in)
	pair, err := req.Pair(out.Certificate)
	if err != nil || pair.Identity != (pki.Identity{Cluster: ca.Cluster(), Kind: pki.Node, Node: out.Node, Name: "alpha"}) {
		t.Fatalf("%+v, %v", pair, err)
	}
	nodes, err := e.NodeList(e.Ctx, "")
	if err != nil || len(nodes) != 1 || nodes[0].ID != out.Node || nodes[0].Name != "alpha" {
		t.Errorf("%+v, %v", nodes, err)
	}
	// A node that did not receive the answer asks again, and gets the same identity.
	again := joins(e, in)
	if again.Node != out.Node || again.Certificate.Chain == out.Certificate.Chain {
		t.Errorf("%+v", again)
	}
	other, _ := asks(t, token, "beta")
	_, err = e.Join(e.Ctx, other)
	controltest.Refused(t, err, dataset.ErrForbidden, "was used at 2026-11-18T12:00:00Z by node alpha", "drover node token")
	if strings.Contains(err.Error(), token) {
		t.Error("a secret:", err)
	}
	entries, err := e.Spy.List(e.Ctx, "", "", 0)
	require.NoError(t, err)
	for _, entry := range entries {
		if strings.Contains(entry.Key+string(entry.Value), strings.TrimPrefix(token, "drover-join-")[:20]) {
			t.Errorf("the secret is on record: %s %s", entry.Key, entry.Value)
		}
	}
}

func TestJoinRefuses(t *testing.T) {
	e, ca := controltest.NewWithAuthority(t)
	known := e.NewAgent("alpha")
	old := token(e, "")
	e.Clock.Advance(61 * time.Minute)
	gone := e.NewAgent("omega")
	e.OK(e.RemoveNode(e.Ctx, "omega", api.NodeRemoval{}))
	for name, c := range map[string]struct {
		change func(*api.Join)
		kind   *dataset.Kind
		want   string
	}{
		"garbage":       {func(j *api.Join) { j.Token = "sesame" }, dataset.ErrInvalid, "bad join token"},
		"never made":    {func(j *api.Join) { j.Token = pki.NewToken(ca.Fingerprint()).Reveal() }, dataset.ErrForbidden, "is not from this cluster, or has expired"},
		"expired":       {func(j *api.Join) { j.Token = old }, dataset.ErrForbidden, "expired at 2026-11-18T13:00:00Z; control's time is 2026-11-18T13:01:00Z"},
		"bad name":      {func(j *api.Join) { j.Name = "a/b" }, dataset.ErrInvalid, "bad name"},
		"taken name":    {func(j *api.Join) { j.Name = "alpha" }, dataset.ErrExists, "node alpha exists (" + known.ID.String()},
		"known node":    {func(j *api.Join) { j.Node = known.ID }, dataset.ErrExists, "drover node token --name alpha"},
		"removed node":  {func(j *api.Join) { j.Node = gone.ID }, dataset.ErrRemoved, "was removed and cannot return"},
		"no request":    {func(j *api.Join) { j.CSR = "" }, dataset.ErrInvalid, "bad certificate request"},
		"large request": {func(j *api.Join) { j.CSR = strings.Repeat("a", pki.MaxRequest+1) }, dataset.ErrInvalid, "too large"},
	} {
		in, _ := asks(t, token(e, ""), "beta")
		c.change(&in)
		_, err := e.Join(e.Ctx, in)
		if err == nil {
			t.Errorf("%s: let in", name)
			continue
		}
		controltest.Refused(t, err, c.kind, c.want)
	}
	if nodes, err := e.NodeList(e.Ctx, ""); err != nil || len(nodes) != 1 {
		t.Errorf("what was refused left something: %+v, %v", nodes, err)
	}
}

// A token with the name of an existing node is valid only for that node.
func TestComeBack(t *testing.T) {
	e, _ := controltest.NewWithAuthority(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	d := a.MustCreate("db@gold")
	in, req := asks(t, token(e, "alpha"), "gamma")
	_, err := e.Join(e.Ctx, in)
	controltest.Refused(t, err, dataset.ErrForbidden, "the token is for node alpha, and this host is named gamma", "--node-name alpha")
	in.Name, in.Node = "alpha", b.ID
	_, err = e.Join(e.Ctx, in)
	controltest.Refused(t, err, dataset.ErrExists, "the token is for node alpha")
	in.Node = uuid.Nil // the host has lost its state
	out := joins(e, in)
	pair, err := req.Pair(out.Certificate)
	if err != nil || out.Node != a.ID || pair.Identity.Name != "alpha" {
		t.Fatal(out, err)
	}
	if v := e.MustVolume("db"); v.ID != d.ID || v.Home != a.ID {
		t.Errorf("%+v", v)
	}
	if nodes, err := e.NodeList(e.Ctx, ""); err != nil || len(nodes) != 2 || len(nodes[0].Pools) != 2 {
		t.Errorf("%+v, %v", nodes, err)
	}
}

// If several hosts use one token at the same time, one is admitted.
func TestJoinOnce(t *testing.T) {
	e, _ := controltest.NewWithAuthority(t)
	token := token(e, "")
	var in sync.Mutex
	var all sync.WaitGroup
	won := 0
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		ask, _ := asks(t, token, name)
		all.Go(func() {
			if _, err := e.Join(e.Ctx, ask); err == nil {
				in.Lock()
				won++
				in.Unlock()
			}
		})
	}
	all.Wait()
	nodes, err := e.NodeList(e.Ctx, "")
	if won != 1 || err != nil || len(nodes) != 1 {
		t.Errorf("%d were let in: %+v, %v", won, nodes, err)
	}
}

func TestTokens(t *testing.T) {
	e, _ := controltest.NewWithAuthority(t)
	for _, ttl := range []string{"59s", "169h", "-1h", "soon", "1"} {
		_, err := e.MakeToken(e.Ctx, api.NewToken{TTL: ttl})
		controltest.Refused(t, err, dataset.ErrInvalid, "expected 1m0s to 168h0m0s")
	}
	_, err := e.MakeToken(e.Ctx, api.NewToken{Name: "a b"})
	controltest.Refused(t, err, dataset.ErrInvalid, "bad name")
	token(e, "")
	e.Clock.Advance(membership.TokenKept + 2*time.Hour)
	token(e, "")
	if left, err := e.Spy.List(e.Ctx, record.TokensPrefix, "", 0); err != nil || len(left) != 1 {
		t.Errorf("%d tokens are kept, %v", len(left), err)
	}
	e.Admission.Authority = nil
	_, err = e.MakeToken(e.Ctx, api.NewToken{})
	controltest.Refused(t, err, dataset.ErrUnsupported, "drover control")
}

func TestCertify(t *testing.T) {
	e, _ := controltest.NewWithAuthority(t)
	a := e.NewAgent("alpha")
	req, err := pki.NewRequest()
	require.NoError(t, err)
	signed, err := e.Certify(e.Ctx, a.ID, api.Certification{CSR: req.PEM})
	require.NoError(t, err)
	if p, err := req.Pair(signed); err != nil || p.Identity.Node != a.ID || p.Identity.Name != "alpha" {
		t.Error(p, err)
	}
	_, err = e.Certify(e.Ctx, uuid.New(), api.Certification{CSR: req.PEM})
	controltest.Refused(t, err, dataset.ErrRemoved, "was removed")
	_, err = e.Certify(e.Ctx, a.ID, api.Certification{})
	controltest.Refused(t, err, dataset.ErrInvalid, "bad certificate request")
}

// Another replica learns of the revocation within seconds, and keeps using the revocations it knows while the store
// is unavailable.
func TestRevokedElsewhere(t *testing.T) {
	e, ca := controltest.NewWithAuthority(t)
	bob := pki.Identity{Kind: pki.Operator, Role: pki.Worker, Name: "bob"}
	cert := controltest.Certificate(t, ca, bob, controltest.Start)
	e.OK(e.Revoked(bob, cert))
	other, _ := control.Assemble(control.Deps{Store: e.Spy, Clock: e.Clock, Profiles: e.Deps.Profiles, Failed: e.Failed})
	defer other.Close()
	e.Clock.Advance(time.Second)
	e.OK(other.Admission.RevokeOperator(e.Ctx, "bob"))
	controltest.Refused(t, other.Revoked(bob, cert), dataset.ErrForbidden, "the certificate of operator bob (operator) was revoked at 2026-11-18T12:00:01Z")
	assert.NoErrorf(t, e.Revoked(bob, cert), "heard too soon: each request asks the store")
	e.Clock.Advance(membership.RevocationsInterval)
	controltest.Refused(t, e.Revoked(bob, cert), dataset.ErrForbidden, "was revoked")
	e.OK(e.Revoked(pki.Identity{Kind: pki.Operator, Role: pki.Worker, Name: "eve"}, cert))
	// A certificate that was issued earlier on a host whose clock is ahead is revoked as well.
	ahead := controltest.Certificate(t, ca, bob, controltest.Start.Add(pki.Skew))
	controltest.Refused(t, e.Revoked(bob, ahead), dataset.ErrForbidden, "with all that were issued until 2026-11-18T12:10:01Z, because clocks may differ")
	if err := e.Revoked(bob, controltest.Certificate(t, ca, bob, controltest.Start.Add(pki.Skew+2*time.Second))); err != nil {
		t.Error("a certificate that was made since:", err)
	}
	trust, err := e.Trust(e.Ctx)
	if block, _ := pem.Decode([]byte(trust.Roots)); err != nil || block == nil || trust.Cluster != ca.Cluster() || len(trust.Revoked) != 1 || trust.Revoked[0].Operator != "bob" {
		t.Errorf("%+v, %v", trust, err)
	}
	// Revocations without any further effect are removed with the next one.
	e.Clock.Advance(pki.OperatorLife + 2*time.Hour)
	e.OK(e.RevokeOperator(e.Ctx, "eve"))
	if left, err := e.Spy.List(e.Ctx, record.RevokedPrefix, "", 0); err != nil || len(left) != 1 {
		t.Error(left, err)
	}
}
