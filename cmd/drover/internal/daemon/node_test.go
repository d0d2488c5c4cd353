package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
)

// A peer is verified again at each request, because a connection can last longer than its certificate is valid.
func TestPeerIDLooksAgain(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	ca, err := pki.Create(filepath.Join(t.TempDir(), "ca"), now)
	if err != nil {
		t.Fatal(err)
	}
	pair := func(id pki.Identity) *pki.Pair {
		p, err := ca.Issue(id, now)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	a := pki.Identity{Kind: pki.Node, Node: uuid.New(), Name: "a"}
	clk, removed := clock.NewFake(now), false
	own := pki.NewCredentials(pair(pki.Identity{Kind: pki.Node, Node: uuid.New(), Name: "b"}), clk, func(pki.Identity, *x509.Certificate) error {
		if removed {
			return dataset.Errorf(dataset.ErrForbidden, "node a was removed")
		}
		return nil
	})
	who := peerID(own)
	asks := func(p *pki.Pair) *http.Request {
		return &http.Request{TLS: &tls.ConnectionState{PeerCertificates: p.Chain}}
	}
	r := asks(pair(a))
	if id, err := who(r); err != nil || id != a.Node {
		t.Fatal(id, err)
	}
	removed = true
	if _, err := who(r); !errors.Is(err, dataset.ErrForbidden) {
		t.Error("removed:", err)
	}
	removed = false
	if id, err := who(r); err != nil || id != a.Node {
		t.Error(id, err)
	}
	clk.Advance(31 * 24 * time.Hour)
	if _, err := who(r); !errors.Is(err, dataset.ErrForbidden) {
		t.Error("expired:", err)
	}
	clk.Advance(-31 * 24 * time.Hour)
	for name, r := range map[string]*http.Request{"an operator": asks(pair(pki.Identity{Kind: pki.Operator, Role: pki.Admin, Name: "bob"})), "nobody": {TLS: &tls.ConnectionState{}}, "plain": {}} {
		if _, err := who(r); !errors.Is(err, dataset.ErrForbidden) {
			t.Error(name, err)
		}
	}
}
