package api

import (
	"context"

	"github.com/droverhq/drover/internal/pki"
)

// Principal is the caller of a request.
type Principal struct {
	pki.Identity // identity in the certificate; zero for a caller on this host
	// Local is true for this process and for callers that may use its socket. They have the same access to the
	// data as root of the host.
	Local bool
	From  string // address of the caller, or its user on this host; empty: this process
}

// String returns the name of the caller for errors and the audit log.
func (p Principal) String() string {
	switch {
	case p.Local && p.From == "":
		return "this process"
	case p.Local:
		return "local " + p.From
	case p.Kind == "":
		return "nobody"
	}
	return p.Identity.String()
}

type principalKey struct{}

// WithPrincipal returns a context for a request of the caller.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalOf returns the caller of a request. Without a request, this process is the caller.
func PrincipalOf(ctx context.Context) Principal {
	if p, ok := ctx.Value(principalKey{}).(Principal); ok {
		return p
	}
	return Principal{Local: true}
}
