// Package member_test tests the member part of package controlsync. It is a folder of its own, so that it runs beside the other tests.
package member_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

func TestJoin(t *testing.T) {
	r := newReplica(t)
	dir := filepath.Join(t.TempDir(), "tls")
	if _, err := controlsync.Open(dir, r.clock); !errors.Is(err, dataset.ErrNotFound) || !strings.Contains(err.Error(), "start the agent with --join") {
		t.Error(err)
	}
	token := r.token("")
	p, err := controlsync.Join(t.Context(), r.joining(dir, "alpha", token))
	require.NoError(t, err)
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
	if again, err := controlsync.Join(t.Context(), r.joining(dir, "alpha", token)); err != nil || !again.Key.Equal(p.Key) {
		t.Error(again, err)
	}
	if _, err := controlsync.Join(t.Context(), r.joining(t.TempDir(), "beta", token)); !errors.Is(err, dataset.ErrForbidden) || !strings.Contains(err.Error(), "was used at") {
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
	first, err := controlsync.Join(t.Context(), r.joining(dir, "alpha", token))
	if err != nil || len(request) == 0 {
		t.Fatal(err)
	}
	// As a power cut between control's answer and the first file leaves it.
	for _, name := range []string{"ca.pem", "node.pem", "node-key.pem"} {
		require.NoError(t, os.Remove(filepath.Join(dir, name)))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "join.pem"), request, 0o600))
	p, err := controlsync.Join(t.Context(), r.joining(dir, "alpha", token))
	if err != nil || p.Identity != first.Identity || !p.Key.Equal(first.Key) {
		t.Fatal(p, err)
	}
	nodes, err := r.svc.NodeList(t.Context(), "")
	if err != nil || len(nodes) != 1 || nodes[0].ID != p.Identity.Node {
		t.Errorf("%+v, %v", nodes, err)
	}
}

// A crash between the certificate and the end of a join leaves the request, with the
// node's key: the next start removes it, with the token or without.
func TestJoinLeavesNoRequest(t *testing.T) {
	r := newReplica(t)
	for _, joins := range []bool{true, false} {
		dir := t.TempDir()
		left := filepath.Join(dir, "join.pem")
		var request []byte
		r.before = func(*http.Request) { request, _ = os.ReadFile(left) }
		token := r.token("")
		first, err := controlsync.Join(t.Context(), r.joining(dir, "n"+uuid.NewString(), token))
		if err != nil || len(request) == 0 {
			t.Fatal(err)
		}
		require.NoError(t, os.WriteFile(left, request, 0o600))
		if joins {
			if _, err := controlsync.Join(t.Context(), r.joining(dir, "x", token)); err != nil {
				t.Fatal(err)
			}
		} else if m := open(t, dir, r.clock); m.Identity() != first.Identity {
			t.Error(m.Identity())
		}
		if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("joins %v: the request is there: %v", joins, err)
		}
		// One of another key is of a join that was begun since: it stays.
		other, err := pki.NewRequest()
		require.NoError(t, err)
		require.NoError(t, other.Save(left))
		open(t, dir, r.clock)
		if _, err := os.Stat(left); err != nil {
			t.Error(err)
		}
	}
}

// A host of one cluster does not use up a token of another.
func TestTokenOfAnotherCluster(t *testing.T) {
	r, other := newReplica(t), newReplica(t)
	dir := t.TempDir()
	mine := r.join(dir, "alpha")
	for _, rep := range []*replica{r, other} { // or it would stay what it is
		rep.clock.Advance(31 * 24 * time.Hour)
		rep.own.Set(rep.certificate())
	}
	token := other.token("")
	_, err := controlsync.Join(t.Context(), other.joining(dir, "alpha", token))
	if err == nil || !strings.Contains(err.Error(), "is a member of cluster "+mine.Identity.Cluster.String()+", and the token is for cluster ") {
		t.Error(err)
	}
	if kept, err := pki.LoadPair(pki.NodeFiles(dir)); err != nil || !kept.Key.Equal(mine.Key) {
		t.Error(err)
	}
	if _, err := controlsync.Join(t.Context(), other.joining(t.TempDir(), "beta", token)); err != nil {
		t.Error("the token was used up:", err)
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
		"another cluster's": {other.token(""), r.clock.Now(), dataset.ErrUnavailable, "the token belongs to another cluster"},
		"expired":           {expired, r.clock.Now(), dataset.ErrForbidden, "expired at 2026-03-04T06:06:07Z"},
		"clock":             {r.token(""), start.Add(-10 * time.Hour), dataset.ErrUnavailable, "this host's clock shows 2026-03-03T19:06:07Z, the certificate of control c1 is valid from 2026-03-04T04:56:07Z"},
	} {
		dir := t.TempDir()
		j := r.joining(dir, "alpha", c.token)
		j.Clock = fakes.NewClock(c.clock)
		_, err := controlsync.Join(t.Context(), j)
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
