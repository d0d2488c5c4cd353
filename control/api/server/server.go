package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/droverhq/drover/dataset"
)

// New returns a server for the handler with bounds on what a peer can
// hold up. There is none on the whole of a request or an answer, since exports
// and event streams last; the owner adds listeners, TLS and an error log, and
// must leave BaseContext and ConnContext alone. Once it is being shut down, requests that only
// wait for something to happen end at once.
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

// waiting returns a context for a request that waits: it ends as ctx does, and
// when the server is being shut down. The function ends it, and turns the error
// of a wait that the shutdown ended into one that says so.
func waiting(ctx context.Context) (context.Context, func(error) error) {
	stopping, ok := ctx.Value(stoppingKey{}).(context.Context)
	ctx, cancel := context.WithCancelCause(ctx)
	forget := func() bool { return true }
	if ok {
		forget = context.AfterFunc(stopping, func() {
			cancel(dataset.Errorf(dataset.ErrUnavailable, "drover is stopping (ask again when it is back)"))
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
