package member_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/api/server"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// replica is control on loopback, with real TLS.
type replica struct {
	t       *testing.T
	dir     string // of the authority
	clock   *fakes.Clock
	svc     *control.Service
	own     *pki.Credentials
	address string

	mu      sync.Mutex
	before  func(r *http.Request) // is called with each request, before it is answered
	changes []api.Change
}

func newReplica(t *testing.T) *replica {
	t.Helper()
	r := &replica{t: t, dir: filepath.Join(t.TempDir(), "ca"), clock: fakes.NewClock(start)}
	_, err := pki.Create(r.dir, start)
	require.NoError(t, err)
	st, err := bolt.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), bolt.Options{Clock: clock.System{}})
	require.NoError(t, err)
	r.svc = control.New(control.Deps{
		Store: st, StoreName: "bolt", Clock: r.clock, Version: "v1.4.0",
		Authority: func() (*pki.Authority, error) { return pki.Load(r.dir) },
		Failed:    func(what string, err error) { t.Error(what, err) },
	})
	r.own = pki.NewCredentials(r.certificate(), r.clock, r.svc.Revoked)
	handler := server.Handler(server.Deps{
		Service: r.svc, Members: r.svc, Peer: r.own.VerifyPeer, Version: "v1.4.0",
		Audit: func(c api.Change) { r.mu.Lock(); defer r.mu.Unlock(); r.changes = append(r.changes, c) },
	})
	s := server.New(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
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
	require.NoError(t, err)
	r.address = l.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(tls.NewListener(l, r.own.UnverifiedServer())) }) // which ends with an error always
	t.Cleanup(func() { s.Close(); serving.Wait(); r.svc.Close(); st.Close() })
	return r
}

func (r *replica) certificate() *pki.Pair {
	r.t.Helper()
	ca, err := pki.Load(r.dir)
	require.NoError(r.t, err)
	p, err := ca.Issue(pki.Identity{Kind: pki.Control, Name: "c1"}, r.clock.Now())
	require.NoError(r.t, err)
	return p
}

func (r *replica) token(name string) string {
	r.t.Helper()
	tok, err := r.svc.MakeToken(r.t.Context(), api.NewToken{Name: name})
	require.NoError(r.t, err)
	return tok.Token
}

func (r *replica) joining(dir, name, token string) controlsync.JoinRequest {
	return controlsync.JoinRequest{Dir: dir, Replicas: []string{r.address}, Token: token, Name: name, Clock: r.clock}
}

func (r *replica) join(dir, name string) *pki.Pair {
	r.t.Helper()
	p, err := controlsync.Join(r.t.Context(), r.joining(dir, name, r.token("")))
	require.NoError(r.t, err)
	return p
}

// client is how a member asks.
func (r *replica) client(m *controlsync.Member) *client.Client {
	r.t.Helper()
	c, err := client.NewTLS("https://"+r.address, m.Credentials().Client(pki.Control))
	require.NoError(r.t, err)
	r.t.Cleanup(c.Close)
	return c
}

func open(t *testing.T, dir string, clk clock.Clock) *controlsync.Member {
	t.Helper()
	m, err := controlsync.Open(dir, clk)
	require.NoError(t, err)
	return m
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
		require.NoError(t, m.Check(t.Context(), c))
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
	if err := m.Check(t.Context(), c); !errors.Is(err, dataset.ErrForbidden) || !strings.Contains(err.Error(), "this host's clock shows") {
		t.Error(err)
	}
	if _, err := controlsync.Join(t.Context(), r.joining(dir, "alpha", r.token(""))); !errors.Is(err, dataset.ErrExists) || !strings.Contains(err.Error(), "drover node token --name alpha") {
		t.Error(err)
	}
	back, err := controlsync.Join(t.Context(), r.joining(dir, "whatever", r.token("alpha")))
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
	_, err := pki.Rotate(r.dir, r.clock.Now())
	require.NoError(t, err)
	r.own.Set(r.certificate())
	if _, err := controlsync.Join(t.Context(), r.joining(t.TempDir(), "beta", token)); err != nil {
		t.Error("a token from before:", err)
	}
	require.NoError(t, m.Check(t.Context(), c))
	second := m.Credentials().Pair()
	if len(second.Roots) != 2 || !second.IsOfNewestRoot() || second.Key.Equal(first.Key) {
		t.Errorf("%d roots", len(second.Roots))
	}
	_, err = pki.FinishRotation(r.dir, true, r.clock.Now())
	require.NoError(t, err)
	r.own.Set(r.certificate())
	_ = m.Check(t.Context(), c) // by a connection that may yet show the old certificate, and is closed for that
	require.NoError(t, m.Check(t.Context(), c))
	if got := m.Credentials().Pair(); len(got.Roots) != 1 || !got.Key.Equal(second.Key) {
		t.Errorf("%d roots", len(got.Roots))
	}
	late := pki.NewCredentials(first, r.clock, nil)
	old, err := client.NewTLS("https://"+r.address, late.Client())
	require.NoError(t, err)
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
	*fakes.Clock
	begun chan struct{}
}

func (w *waited) After(d time.Duration) <-chan time.Time {
	ch := w.Clock.After(d)
	w.begun <- struct{}{}
	return ch
}
