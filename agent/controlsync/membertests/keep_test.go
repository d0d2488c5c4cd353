package member_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// A node that was removed is let in nowhere: by control at once, by other nodes once they
// have looked.
func TestRemoved(t *testing.T) {
	r := newReplica(t)
	a, b := t.TempDir(), t.TempDir()
	r.join(a, "alpha")
	r.join(b, "beta")
	alpha, beta := open(t, a, r.clock), open(t, b, r.clock)
	toControl := r.client(alpha)
	require.NoError(t, alpha.Check(t.Context(), toControl))
	peer := func() error {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		got := make(chan error, 1)
		go func() {
			conn, err := l.Accept()
			if err != nil {
				got <- err
				return
			}
			defer conn.Close()
			got <- tls.Server(conn, beta.Credentials().Server(pki.Node)).HandshakeContext(context.Background())
		}()
		conn, err := tls.Dial("tcp", l.Addr().String(), alpha.Credentials().Client(pki.Node))
		if err == nil {
			conn.Close()
		}
		return <-got
	}
	require.NoError(t, peer())
	_, err := r.svc.RemoveNode(t.Context(), "alpha", api.NodeRemoval{})
	require.NoError(t, err)
	if err := alpha.Check(t.Context(), toControl); !errors.Is(err, dataset.ErrRemoved) || !strings.Contains(err.Error(), "was removed from the cluster at") {
		t.Error(err)
	}
	require.NoError(t, beta.Check(t.Context(), r.client(beta)))
	assert.ErrorIs(t, peer(), dataset.ErrForbidden)
}

// Keep looks each minute, tells of a failure once, and of control that is away only when
// time runs out.
func TestKeep(t *testing.T) {
	r := newReplica(t)
	dir := t.TempDir()
	r.join(dir, "alpha")
	clk := &waited{Clock: fakes.NewClock(start), begun: make(chan struct{})}
	m := open(t, dir, clk)
	stub := &stub{err: dataset.Errorf(dataset.ErrUnavailable, "away")}
	ctx, cancel := context.WithCancel(t.Context())
	var told []error
	done := make(chan struct{})
	go func() { defer close(done); m.Keep(ctx, stub, func(err error) { told = append(told, err) }) }()
	turn := func(err error, d time.Duration) int {
		stub.set(err)
		clk.Advance(d)
		<-clk.begun
		return len(told)
	}
	<-clk.begun
	if n := turn(stub.err, time.Minute); n != 0 {
		t.Error("reported that control is unreachable:", told)
	}
	bad := dataset.Errorf(dataset.ErrForbidden, "no")
	if n := turn(bad, time.Minute); n != 1 {
		t.Error(told)
	}
	if n := turn(bad, time.Minute); n != 1 {
		t.Error("told again:", told)
	}
	other := dataset.Errorf(dataset.ErrForbidden, "not that either")
	for range 3 { // failures that take turns
		if n := turn(other, time.Minute); n != 2 {
			t.Error("told again of one of two:", told)
		}
		if n := turn(bad, time.Minute); n != 2 {
			t.Error("told again of one of two:", told)
		}
	}
	if n := turn(bad, time.Hour); n != 3 {
		t.Error(told)
	}
	if n := turn(dataset.Errorf(dataset.ErrUnavailable, "away"), 26*24*time.Hour); n != 4 {
		t.Error("not told that time runs out:", told)
	}
	cancel()
	<-done
}

// TestFindings warns when a certificate should have been renewed, and reports an error when it has expired.
func TestFindings(t *testing.T) {
	r := newReplica(t)
	dir := t.TempDir()
	r.join(dir, "alpha")
	for _, c := range []struct {
		days  int
		level string // of the only finding; empty: no finding
		text  string
	}{
		{0, "", ""},
		{24, "", ""},
		{26, "warning", "was not renewed"},
		{31, "error", "expired at"},
	} {
		m := open(t, dir, fakes.NewClock(start.AddDate(0, 0, c.days)))
		var found condition.List
		m.Findings(&found)
		switch {
		case c.level == "" && len(found) > 0:
			t.Errorf("after %d days: %+v, want no finding", c.days, found)
		case c.level != "" && (len(found) != 1 || found[0].Level != c.level || !strings.Contains(found[0].Text, c.text) ||
			found[0].Subject != "certificate" || found[0].Fix == ""):
			t.Errorf("after %d days: %+v, want one %s that contains %q, and a fix", c.days, found, c.level, c.text)
		}
	}
}

// misdirected is a control that sends the certificate of another node.
type misdirected struct {
	controlsync.Control
	other uuid.UUID
}

func (c misdirected) Certify(ctx context.Context, _ uuid.UUID, r api.Certification) (pki.Signed, error) {
	return c.Control.Certify(ctx, c.other, r)
}

// A host does not take the certificate of another node when it renews its own.
func TestRenewalRefusesCertificateOfOtherNode(t *testing.T) {
	r := newReplica(t)
	a, b := t.TempDir(), t.TempDir()
	r.join(a, "alpha")
	r.join(b, "beta")
	alpha, beta := open(t, a, r.clock), open(t, b, r.clock)
	r.clock.Advance(25 * 24 * time.Hour) // the certificate must be renewed
	was := alpha.Credentials().Pair()
	err := alpha.Check(t.Context(), misdirected{r.client(beta), beta.Identity().Node})
	if !errors.Is(err, dataset.ErrCorrupt) || !strings.Contains(err.Error(), "control sent the certificate of") {
		t.Error(err)
	}
	if alpha.Credentials().Pair() != was || open(t, a, r.clock).Identity() != was.Identity {
		t.Error("the certificate was replaced")
	}
}
