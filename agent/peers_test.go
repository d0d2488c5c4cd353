package agent_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// Only the certificate of a node allows its holder to request data from an agent. The certificates of operators,
// whatever their role, and of control do not.
func TestPeersNeedCertificateOfNode(t *testing.T) {
	ca, err := pki.Create(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	node := uuid.New()
	for _, of := range []pki.Identity{
		{Kind: pki.Node, Node: node, Name: "host-b"}, {Kind: pki.Control, Name: "control-1"},
		{Kind: pki.Operator, Role: pki.Admin, Name: "alice"}, {Kind: pki.Operator, Role: pki.Viewer, Name: "bob"},
	} {
		pair, err := ca.Issue(of, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		got, err := move.CertifiedNode(&http.Request{TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{pair.Chain[0]}}})
		if of.Kind == pki.Node && (err != nil || got != node) {
			t.Errorf("%s: %s, %v", of, got, err)
		}
		if of.Kind != pki.Node && !errors.Is(err, dataset.ErrForbidden) {
			t.Errorf("%s: %s, %v", of, got, err)
		}
	}
}
