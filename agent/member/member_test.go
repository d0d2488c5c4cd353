package member_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/droverhq/drover/agent/member"
	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// replica is control on loopback, with real TLS.
type replica struct {
	t       *testing.T
	dir     string // of the authority
	clock   *clock.Fake
	svc     *control.Service
	own     *pki.Credentials
	address string

	mu      sync.Mutex
	before  func(r *http.Request) // is called with each request, before it is answered
	changes []api.Change
}

func newReplica(t *testing.T) *replica {
	t.Helper()
	r := &replica{t: t, dir: filepath.Join(t.TempDir(), "ca"), clock: clock.NewFake(start)}
	if _, err := pki.Create(r.dir, start); err != nil {
		t.Fatal(err)
	}
	st, err := bolt.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), bolt.Options{Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	r.svc = control.New(control.Deps{
		Store: st, StoreName: "bolt", Clock: r.clock, Version: "v1.4.0",
		Authority: func() (*pki.Authority, error) { return pki.Load(r.dir) },
		Failed:    func(what string, err error) { t.Error(what, err) },
	})
	r.own = pki.NewCredentials(r.certificate(), r.clock, r.svc.Revoked)
	handler := api.Handler(api.Deps{
		Service: r.svc, Members: r.svc, Peer: r.own.Peer, Version: "v1.4.0",
		Audit: func(c api.Change) { r.mu.Lock(); defer r.mu.Unlock(); r.changes = append(r.changes, c) },
	})
	s := api.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.mu.Lock()
		before := r.before
		r.mu.Unlock()
		if before != nil {
			before(q)
		}
		handler.ServeHTTP(w, q)
	}))
	s.ErrorLog = log.New(io.Discard, "", 0)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.address = l.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(tls.NewListener(l, r.own.Asking())) }) // which ends with an error always
	t.Cleanup(func() { s.Close(); serving.Wait(); r.svc.Close(); st.Close() })
	return r
}

func (r *replica) certificate() *pki.Pair {
	r.t.Helper()
	ca, err := pki.Load(r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	p, err := ca.Issue(pki.Identity{Kind: pki.Control, Name: "c1"}, r.clock.Now())
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

func (r *replica) token(name string) string {
	r.t.Helper()
	tok, err := r.svc.MakeToken(r.t.Context(), api.NewToken{Name: name})
	if err != nil {
		r.t.Fatal(err)
	}
	return tok.Token
}

func (r *replica) joining(dir, name, token string) member.Joining {
	return member.Joining{Dir: dir, Replicas: []string{r.address}, Token: token, Name: name, Clock: r.clock}
}

func (r *replica) join(dir, name string) *pki.Pair {
	r.t.Helper()
	p, err := member.Join(r.t.Context(), r.joining(dir, name, r.token("")))
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// client is how a member asks.
func (r *replica) client(m *member.Member) *api.Client {
	r.t.Helper()
	c, err := api.NewTLSClient("https://"+r.address, m.Credentials().Client(pki.Control))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(c.Close)
	return c
}

func open(t *testing.T, dir string, clk clock.Clock) *member.Member {
	t.Helper()
	m, err := member.Open(dir, clk)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestJoin(t *testing.T) {
	r := newReplica(t)
	dir := filepath.Join(t.TempDir(), "tls")
	if _, err := member.Open(dir, r.clock); !errors.Is(err, dataset.ErrNotFound) || !strings.Contains(err.Error(), "start the agent with --join") {
		t.Error(err)
	}
	token := r.token("")
	p, err := member.Join(t.Context(), r.joining(dir, "alpha", token))
	if err != nil {
		t.Fatal(err)
	}
	if p.Identity.Kind != pki.Node || p.Identity.Name != "alpha" || p.Identity.Cluster == uuid.Nil {
		t.Errorf("%+v", p.Identity)
	}
	m := open(t, dir, r.clock)
	c := r.client(m)
	if err := c.Register(t.Context(), api.Registration{Node: dataset.Node{ID: m.Identity().Node, Name: "alpha", Incarnation: uuid.New()}}); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Error(entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode() != 0o600 {
			t.Error(e.Name(), info.Mode(), err)
		}
	}
	// With the same flags started again it stays what it is.
	if again, err := member.Join(t.Context(), r.joining(dir, "alpha", token)); err != nil || !again.Key.Equal(p.Key) {
		t.Error(again, err)
	}
	if _, err := member.Join(t.Context(), r.joining(t.TempDir(), "beta", token)); !errors.Is(err, dataset.ErrForbidden) || !strings.Contains(err.Error(), "was used at") {
		t.Error(err)
	}
	for _, change := range r.changes {
		if strings.Contains(change.Error+change.Detail+change.Target, token) {
			t.Errorf("a secret: %+v", change)
		}
	}
}

// A host that joined and was cut short before it kept the answer joins again, as the
// same node, with the same token.
func TestJoinCutShort(t *testing.T) {
	r := newReplica(t)
	dir := t.TempDir()
	token := r.token("")
	var request []byte
	r.before = func(*http.Request) { request, _ = os.ReadFile(filepath.Join(dir, "join.pem")) }
	first, err := member.Join(t.Context(), r.joining(dir, "alpha", token))
	if err != nil || len(request) == 0 {
		t.Fatal(err)
	}
	// As a power cut between control's answer and the first file leaves it.
	for _, name := range []string{"ca.pem", "node.pem", "node-key.pem"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "join.pem"), request, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := member.Join(t.Context(), r.joining(dir, "alpha", token))
	if err != nil || p.Identity != first.Identity || !p.Key.Equal(first.Key) {
		t.Fatal(p, err)
	}
	nodes, err := r.svc.NodeList(t.Context(), "")
	if err != nil || len(nodes) != 1 || nodes[0].ID != p.Identity.Node {
		t.Errorf("%+v, %v", nodes, err)
	}
}

func TestJoinRefused(t *testing.T) {
	r, other := newReplica(t), newReplica(t)
	expired := r.token("")
	r.clock.Advance(2 * time.Hour)
	for name, c := range map[string]struct {
		token string
		clock time.Time
		kind  *dataset.Kind
		want  string
	}{
		"none":              {"", start, dataset.ErrInvalid, "bad join token"},
		"another cluster's": {other.token(""), r.clock.Now(), dataset.ErrUnavailable, "this is not the cluster that the token is for"},
		"expired":           {expired, r.clock.Now(), dataset.ErrForbidden, "expired at 2026-03-04T06:06:07Z"},
		"clock":             {r.token(""), start.Add(-10 * time.Hour), dataset.ErrUnavailable, "this host's clock says 2026-03-03T19:06:07Z, the certificate of control c1 is valid from 2026-03-04T04:56:07Z"},
	} {
		dir := t.TempDir()
		j := r.joining(dir, "alpha", c.token)
		j.Clock = clock.NewFake(c.clock)
		_, err := member.Join(t.Context(), j)
		if dataset.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") || c.token != "" && strings.Contains(err.Error(), c.token) {
			t.Errorf("%s: %v (%v)", name, err, dataset.KindOf(err))
		}
		if _, err := os.Stat(filepath.Join(dir, "node.pem")); !errors.Is(err, os.ErrNotExist) {
			t.Error(name, err)
		}
	}
	if nodes, err := r.svc.NodeList(t.Context(), ""); err != nil || len(nodes) != 0 {
		t.Errorf("%+v, %v", nodes, err)
	}
}

// A certificate is renewed with a third of its life left, and not before; one that ended
// while the host was off is had anew with a token.
func TestRenewal(t *testing.T) {
	r := newReplica(t)
	dir := t.TempDir()
	first := r.join(dir, "alpha")
	m := open(t, dir, r.clock)
	c := r.client(m)
	look := func() *pki.Pair {
		t.Helper()
		r.own.Set(r.certificate())
		if err := m.Look(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		return m.Credentials().Pair()
	}
	r.clock.Advance(19 * 24 * time.Hour)
	if got := look(); !got.Key.Equal(first.Key) {
		t.Error("renewed too soon")
	}
	r.clock.Advance(24 * time.Hour)
	second := look()
	if second.Key.Equal(first.Key) || second.Identity != first.Identity {
		t.Errorf("not renewed: %+v", second.Identity)
	}
	if kept, err := pki.LoadPair(pki.NodeFiles(dir)); err != nil || !kept.Key.Equal(second.Key) {
		t.Error(kept, err)
	}
	r.clock.Advance(31 * 24 * time.Hour)
	r.own.Set(r.certificate())
	if err := m.Look(t.Context(), c); !errors.Is(err, dataset.ErrForbidden) || !strings.Contains(err.Error(), "this host's clock says") {
		t.Error(err)
	}
	if _, err := member.Join(t.Context(), r.joining(dir, "alpha", r.token(""))); !errors.Is(err, dataset.ErrExists) || !strings.Contains(err.Error(), "drover node token --name alpha") {
		t.Error(err)
	}
	back, err := member.Join(t.Context(), r.joining(dir, "whatever", r.token("alpha")))
	if err != nil || back.Identity != first.Identity {
		t.Error(back, err)
	}
}

// A rotated authority is heard of at the next look, and nobody is shut out on the way.
func TestRotation(t *testing.T) {
	r := newReplica(t)
	dir := t.TempDir()
	first := r.join(dir, "alpha")
	m := open(t, dir, r.clock)
	c := r.client(m)
	token := r.token("")
	r.clock.Advance(time.Hour / 2)
	if _, err := pki.Rotate(r.dir, r.clock.Now()); err != nil {
		t.Fatal(err)
	}
	r.own.Set(r.certificate())
	if _, err := member.Join(t.Context(), r.joining(t.TempDir(), "beta", token)); err != nil {
		t.Error("a token from before:", err)
	}
	if err := m.Look(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	second := m.Credentials().Pair()
	if len(second.Roots) != 2 || !second.Newest() || second.Key.Equal(first.Key) {
		t.Errorf("%d roots", len(second.Roots))
	}
	if _, err := pki.FinishRotation(r.dir, true, r.clock.Now()); err != nil {
		t.Fatal(err)
	}
	r.own.Set(r.certificate())
	_ = m.Look(t.Context(), c) // by a connection that may yet show the old certificate, and is closed for that
	if err := m.Look(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if got := m.Credentials().Pair(); len(got.Roots) != 1 || !got.Key.Equal(second.Key) {
		t.Errorf("%d roots", len(got.Roots))
	}
	late := pki.NewCredentials(first, r.clock, nil)
	old, err := api.NewTLSClient("https://"+r.address, late.Client())
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if _, err := old.Trust(t.Context()); err == nil {
		t.Error("the old root is believed yet")
	}
}

type stub struct {
	mu  sync.Mutex
	err error
}

func (s *stub) set(err error) { s.mu.Lock(); defer s.mu.Unlock(); s.err = err }

func (s *stub) Trust(context.Context) (api.Trust, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return api.Trust{}, s.err
}

func (s *stub) Certify(context.Context, uuid.UUID, api.Certification) (pki.Signed, error) {
	return pki.Signed{}, errors.New("not asked for")
}

// waited tells when somebody begins to wait.
type waited struct {
	*clock.Fake
	begun chan struct{}
}

func (w *waited) After(d time.Duration) <-chan time.Time {
	ch := w.Fake.After(d)
	w.begun <- struct{}{}
	return ch
}
