package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/droverhq/drover/dataset"
)

// New returns an HTTP server for the handler that limits how long a peer can block it. The duration of whole requests
// and answers is not limited, because exports and event streams take long. The caller adds listeners, TLS and an
// error log, and must not change BaseContext and ConnContext. When the server is shut down, requests that only wait
// for an event end at once.
func New(handler http.Handler) *http.Server {
	stopping, stop := context.WithCancel(context.Background())
	base := context.WithValue(context.Background(), stoppingKey{}, stopping)
	s := &http.Server{
		Handler:           handler,
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext:       withUser,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
	s.RegisterOnShutdown(stop)
	return s
}

type stoppingKey struct{}

// waiting returns the context for a request that waits. It ends with ctx, and when the server is shut down. The
// handler must call the returned function with the error of the wait. The function releases the context. If the
// shutdown ended the wait, it returns an error that says so.
func waiting(ctx context.Context) (context.Context, func(error) error) {
	stopping, ok := ctx.Value(stoppingKey{}).(context.Context)
	ctx, cancel := context.WithCancelCause(ctx)
	forget := func() bool { return true }
	if ok {
		forget = context.AfterFunc(stopping, func() {
			cancel(dataset.Errorf(dataset.ErrUnavailable, "drover is stopping (try again after its restart)"))
		})
	}
	return ctx, func(err error) error {
		forget()
		if cause := context.Cause(ctx); err != nil && errors.Is(cause, dataset.ErrUnavailable) {
			err = cause
		}
		cancel(nil)
		return err
	}
}
