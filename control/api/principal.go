package api

import (
	"context"

	"github.com/droverhq/drover/internal/pki"
)

// Principal is who asks.
type Principal struct {
	pki.Identity // of a certificate; zero for who is of this host
	// Local says that it is this process, or who may use its socket, which is as good
	// as root on the data of the host.
	Local bool
	From  string // address, or user of this host; empty: this process
}

// String names who asks, for errors and for the audit log.
func (p Principal) String() string {
	switch {
	case p.Local && p.From == "":
		return "this process"
	case p.Local:
		return "local " + p.From
	case p.Kind == "":
		return "nobody known"
	}
	return p.Identity.String()
}

type principalKey struct{}

// WithPrincipal returns a context for what somebody asks.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalOf returns who asks. What no request began is this process's own.
func PrincipalOf(ctx context.Context) Principal {
	if p, ok := ctx.Value(principalKey{}).(Principal); ok {
		return p
	}
	return Principal{Local: true}
}
