package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// Credentials are the certificate of a process and the roots that it trusts. They can be replaced while connections
// exist: the next handshake uses the new ones. Safe for concurrent use.
type Credentials struct {
	clock      clock.Clock
	pair       atomic.Pointer[Pair]
	signatures signatureCache
	// revoked returns the reason if a certificate is revoked, and otherwise nil. If revoked is nil, no certificate is
	// revoked.
	revoked func(Identity, *x509.Certificate) error
}

// NewCredentials returns the credentials of a pair. revoked, which may be nil, returns in one line why an otherwise
// valid certificate must not be trusted. It is called in handshakes and for each VerifyPeer, concurrently.
func NewCredentials(p *Pair, clk clock.Clock, revoked func(Identity, *x509.Certificate) error) *Credentials {
	c := &Credentials{clock: clk, revoked: revoked}
	c.pair.Store(p)
	return c
}

// Set replaces the pair, for instance with a renewed certificate or with more roots.
func (c *Credentials) Set(p *Pair) { c.pair.Store(p) }

// Pair returns the present pair.
func (c *Credentials) Pair() *Pair { return c.pair.Load() }

// Server returns a configuration for a server that accepts only peers of this cluster and of these kinds. A rejected
// peer sees only a TLS alert.
func (c *Credentials) Server(kinds ...Kind) *tls.Config {
	cfg := c.UnverifiedServer()
	cfg.ClientAuth = tls.RequireAnyClientCert
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		_, err := c.VerifyPeer(cs, kinds...)
		return err
	}
	return cfg
}

// UnverifiedServer returns a configuration for a server that accepts all connections. The server must call VerifyPeer
// for each request. So a peer gets a readable error, and a peer without a certificate can request one.
func (c *Credentials) UnverifiedServer() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		ClientAuth:             tls.RequestClientCert,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.presented(), nil },
		SessionTicketsDisabled: true, // a peer that was accepted once is checked again
	}
}

// Client returns a configuration for a client that accepts only peers of this cluster and of these kinds.
func (c *Credentials) Client(kinds ...Kind) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.presented(), nil },
		// This only skips the check of the host name, which our certificates do not contain. VerifyPeer verifies
		// everything else.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := c.VerifyPeer(cs, kinds...)
			return err
		},
	}
}

// presented returns the certificate with everything that a peer may need to verify it. It includes the roots: a joining
// host compares their fingerprints with that of its token.
func (c *Credentials) presented() *tls.Certificate {
	p := c.pair.Load()
	out := &tls.Certificate{PrivateKey: p.Key, Leaf: p.Chain[0]}
	for _, cert := range slices.Concat(p.Chain, p.Roots) {
		out.Certificate = append(out.Certificate, cert.Raw)
	}
	return out
}

// ErrNoCertificate means that a peer presented no certificate.
var ErrNoCertificate = dataset.Errorf(dataset.ErrForbidden,
	"missing client certificate: this address requires one of the cluster (drover ca issue creates one for an "+
		"operator, drover node token lets a host join)")

// VerifyPeer verifies the peer of a connection again, because its certificate may have expired or been revoked since
// the handshake, and returns its identity. If kinds is empty, every kind is accepted. It fails with ErrForbidden, which
// names the problem, and with ErrNoCertificate if there is no certificate.
func (c *Credentials) VerifyPeer(cs tls.ConnectionState, kinds ...Kind) (Identity, error) {
	if len(cs.PeerCertificates) == 0 {
		return Identity{}, ErrNoCertificate
	}
	p := c.pair.Load()
	v := verifier{p.Roots, p.Identity.Cluster, c.clock.Now(), c.revoked, &c.signatures}
	return v.verify(cs.PeerCertificates, kinds)
}

// CheckPair verifies the pair itself: it fails, like VerifyPeer, if other members of the cluster would not trust it
// now. It does not check whether the certificate is revoked.
func (c *Credentials) CheckPair() error {
	p := c.pair.Load()
	_, err := verifier{roots: p.Roots, cluster: p.Identity.Cluster, now: c.clock.Now()}.verify(p.Chain, nil)
	return err
}

// Pinned returns a configuration for a host that joins. It accepts a control replica only if its cluster has the root
// with the fingerprint root. Unless wanted is uuid.Nil, the control replica must also belong to the cluster with the ID
// wanted. The handshake fails with ErrForbidden, or with ErrConflict if it is another cluster than wanted.
func Pinned(root Fingerprint, wanted uuid.UUID, clk clock.Clock) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // there is no root yet: the fingerprint identifies it
		VerifyConnection: func(cs tls.ConnectionState) error {
			at := slices.IndexFunc(cs.PeerCertificates,
				func(c *x509.Certificate) bool { return FingerprintOf(c) == root })
			if at < 0 {
				return dataset.Errorf(dataset.ErrForbidden,
					"the token belongs to another cluster (this one has another certificate authority): create a "+
						"token there, or correct the address")
			}
			pinned := cs.PeerCertificates[at]
			if len(pinned.PermittedURIDomains) != 1 {
				return dataset.Errorf(dataset.ErrForbidden,
					"the token's certificate authority is not of a drover cluster")
			}
			cluster, err := uuid.Parse(pinned.PermittedURIDomains[0])
			if err != nil {
				return dataset.Errorf(dataset.ErrForbidden,
					"the token's certificate authority is not of a drover cluster: %w", err)
			}
			if wanted != uuid.Nil && cluster != wanted {
				return dataset.Errorf(dataset.ErrConflict,
					"this host is a member of cluster %s, and the token is for cluster %s: use another --root "+
						"for the agent, or create a token in the cluster of this host", wanted, cluster)
			}
			_, err = verifier{
				roots:   []*x509.Certificate{pinned},
				cluster: cluster,
				now:     clk.Now(),
			}.verify(cs.PeerCertificates, []Kind{Control})
			return err
		},
	}
}

// verifier verifies certificates of peers.
type verifier struct {
	roots      []*x509.Certificate
	cluster    uuid.UUID
	now        time.Time
	revoked    func(Identity, *x509.Certificate) error // if nil, no certificate is revoked
	signatures *signatureCache                         // if nil, no results are cached
}

// verify verifies a chain, whose first certificate is the holder's, and returns the holder. If verify fails before it
// has checked the chain against the roots, its error repeats unverified claims of the peer. Such an error is returned
// only to that peer.
func (v verifier) verify(chain []*x509.Certificate, kinds []Kind) (Identity, error) {
	leaf := chain[0]
	id, err := IdentityOf(leaf)
	if err != nil {
		return Identity{}, dataset.Errorf(dataset.ErrForbidden, "%w", err)
	}
	if id.Cluster != v.cluster {
		return Identity{}, dataset.Errorf(dataset.ErrForbidden,
			"the certificate of %s belongs to cluster %s, and this is cluster %s: use one of this cluster, or correct "+
				"the address", id, id.Cluster, v.cluster)
	}
	if v.now.Before(leaf.NotBefore) || v.now.After(leaf.NotAfter) {
		return Identity{}, dataset.Errorf(dataset.ErrForbidden,
			"this host's clock shows %s, the certificate of %s is valid from %s to %s: set the clock, or, if it "+
				"is right, get a new certificate%s",
			formatTime(v.now), id, formatTime(leaf.NotBefore), formatTime(leaf.NotAfter), howToReplace(id))
	}
	if err := v.checkSigned(chain); err != nil {
		return Identity{}, dataset.Errorf(dataset.ErrForbidden,
			"the certificate of %s is not signed by this cluster's certificate authority: %w (get a new one: it "+
				"may have been rotated)", id, err)
	}
	if len(kinds) > 0 && !slices.Contains(kinds, id.Kind) {
		return Identity{}, dataset.Errorf(dataset.ErrForbidden,
			"the certificate is that of %s, and %s is required here", id, kindList(kinds))
	}
	if v.revoked != nil {
		if err := v.revoked(id, leaf); err != nil {
			return Identity{}, err
		}
	}
	return id, nil
}

// howToReplace returns how the holder of a certificate gets a new one, in parentheses after a space. It is empty for a
// control replica, which makes its certificate itself.
func howToReplace(id Identity) string {
	switch id.Kind {
	case Operator:
		return fmt.Sprintf(" (drover ca issue %s --role %s, on a control host)", id.Name, id.Role)
	case Node:
		return fmt.Sprintf(" (drover node token --name %s, and join again)", id.Name)
	}
	return ""
}

// checkSigned fails unless a root has signed the certificate. That takes two or three signature checks, so the result
// is cached for certificates that are presented with each request.
func (v verifier) checkSigned(chain []*x509.Certificate) error {
	if v.signatures.has(chain[0], v.roots, v.now) {
		return nil
	}
	opts := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: v.now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, // all certificates have it; verify checks the Kind
	}
	for _, r := range v.roots {
		opts.Roots.AddCert(r)
	}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	chains, err := chain[0].Verify(opts)
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return errors.New("it was signed by another one")
	}
	if err == nil {
		v.signatures.add(chains[0], v.roots)
	}
	return err
}

func kindList(kinds []Kind) string {
	words := make([]string, len(kinds))
	for i, k := range kinds {
		words[i] = "one of kind " + string(k)
	}
	return strings.Join(words, " or ")
}
