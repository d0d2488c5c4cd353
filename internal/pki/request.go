package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/durable"
)

// MaxRequest is the maximum size of a certificate request in bytes. Drover's requests have some 300.
const MaxRequest = 16 << 10

// Request is a new key, and the request of a certificate for it.
type Request struct {
	PEM string // the request, for the signer
	key *ecdsa.PrivateKey
}

// Signed is the answer to a request, as PEM: the certificate, its chain, and the roots to trust.
type Signed struct {
	Chain string `json:"chain"` // the certificate with its chain, as PEM
	Roots string `json:"roots"` // certificates of the authority of the cluster, as PEM
}

// NewRequest creates a key and a certificate request. The request contains no name, because the signer decides on it.
func NewRequest() (*Request, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	return &Request{PEM: string(pem.EncodeToMemory(&pem.Block{Type: typeRequest, Bytes: der})), key: key}, nil
}

// Save writes the request and its key to a file of mode 0600, durably.
func (r *Request) Save(path string) error {
	key, err := encodeKey(r.key)
	if err != nil {
		return err
	}
	return durable.Replace(path, append(key, r.PEM...))
}

// LoadRequest reads a request that was saved. It fails with ErrNotFound if there is none, and with ErrCorrupt if it is
// damaged or if other users can read its key.
func LoadRequest(path string) (*Request, error) {
	b, err := readSecret(path)
	if err != nil {
		return nil, notFoundError(err, path)
	}
	key, request := pem.Decode(b)
	if key == nil || key.Type != typeKey {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "%s: cannot read its private key", path)
	}
	f, err := parsePEM(pem.EncodeToMemory(key))
	if err != nil {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "%s: %w", path, err)
	}
	pub, err := requestKey(request)
	if err != nil || !f.key.PublicKey.Equal(pub) {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "%s does not contain a request for its key", path)
	}
	return &Request{PEM: string(request), key: f.key}, nil
}

// Pair combines the answer to the request with its key. The caller must have received the answer from a trusted peer.
// It fails with ErrCorrupt if the answer is not for this request.
func (r *Request) Pair(s Signed) (*Pair, error) {
	chain, err := parsePEM([]byte(s.Chain))
	if err != nil {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "certificate from control: %w", err)
	}
	roots, err := parsePEM([]byte(s.Roots))
	if err != nil {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "roots from control: %w", err)
	}
	if len(chain.certs) == 0 || len(roots.certs) == 0 || !r.key.PublicKey.Equal(chain.certs[0].PublicKey) {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "certificate from control: it is not for the key that was sent")
	}
	p := &Pair{Key: r.key, Chain: chain.certs, Roots: roots.certs}
	if p.Identity, err = IdentityOf(chain.certs[0]); err != nil {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "certificate from control: %w", err)
	}
	return p, nil
}

// IsFor reports whether this is the request for the key of a pair.
func (r *Request) IsFor(p *Pair) bool { return r.key.PublicKey.Equal(&p.Key.PublicKey) }

// CheckRequest fails with ErrInvalid for a request that Sign would refuse.
func CheckRequest(request []byte) error {
	_, err := requestKey(request)
	return err
}

func requestKey(request []byte) (*ecdsa.PublicKey, error) {
	if len(request) > MaxRequest {
		return nil, dataset.Errorf(dataset.ErrInvalid, "certificate request of %d bytes is too large (%d at most)",
			len(request), MaxRequest)
	}
	block, _ := pem.Decode(request)
	if block == nil || block.Type != typeRequest {
		return nil, dataset.Errorf(dataset.ErrInvalid, "bad certificate request: expected PEM format")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, dataset.Errorf(dataset.ErrInvalid, "bad certificate request: %w", err)
	}
	pub, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, dataset.Errorf(dataset.ErrInvalid, "bad certificate request: expected an ECDSA key on P-256")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, dataset.Errorf(dataset.ErrInvalid, "bad certificate request: %w", err)
	}
	return pub, nil
}
