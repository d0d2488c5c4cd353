package api

import (
	"context"
	"sync/atomic"
	"time"
)

type knownAtKey struct{}

// WithKnownAt returns a context for a request whose answer may be older than the request. The function returns the
// time that SetKnownAt was called with, or the zero time.
func WithKnownAt(ctx context.Context) (context.Context, func() time.Time) {
	var at atomic.Pointer[time.Time]
	return context.WithValue(ctx, knownAtKey{}, &at), func() time.Time {
		if t := at.Load(); t != nil {
			return *t
		}
		return time.Time{}
	}
}

// SetKnownAt records that control is unreachable, and that the answer to a request is the state that this host knew at
// time t. It does nothing if the context is not from WithKnownAt. Safe for concurrent use.
func SetKnownAt(ctx context.Context, t time.Time) {
	if at, ok := ctx.Value(knownAtKey{}).(*atomic.Pointer[time.Time]); ok {
		at.Store(&t)
	}
}
