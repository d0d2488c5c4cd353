package move

import (
	"context"
	"net/http"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// requesterKey is the key of the node that sends a request, in the request's context.
type requesterKey struct{}

// requester returns the node that sent the request of a context, or uuid.Nil if it is not known.
func requester(ctx context.Context) uuid.UUID {
	id, _ := ctx.Value(requesterKey{}).(uuid.UUID)
	return id
}

// WithRequester returns a context for a request that a node has sent.
func WithRequester(ctx context.Context, node uuid.UUID) context.Context {
	return context.WithValue(ctx, requesterKey{}, node)
}

// CertifiedNode returns the node that a client's certificate names.
func CertifiedNode(r *http.Request) (uuid.UUID, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return uuid.Nil, pki.ErrNoCertificate
	}
	id, err := pki.IdentityOf(r.TLS.PeerCertificates[0])
	if err == nil && id.Kind != pki.Node {
		err = dataset.Errorf(dataset.ErrForbidden, "the certificate is for %s, and only nodes may send this "+
			"request", id)
	}
	return id.Node, err
}
