package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

// The engine gives Create and Mount two minutes and all others one. Here they
// get a little less than half of that, so that the user is told why and not that
// a context has ended.
const (
	longCall  = 55 * time.Second
	shortCall = 25 * time.Second
	// writeTimeout has to be longer than any call lasts.
	writeTimeout = 130 * time.Second
	readTimeout  = 10 * time.Second
)

// Options are the options of a server besides its agent. The functions must be
// safe for concurrent use; nil ones are not called.
type Options struct {
	// Global says that every engine of a cluster sees the same volumes.
	Global bool
	// Panicked is told which call of the agent panicked, with what and where.
	Panicked func(call string, value any, stack []byte)
	// Unseen is told of the errors of Get and List, which the engine keeps to
	// itself.
	Unseen func(call, spelling string, err error)
}

// Server answers an engine. It is safe for concurrent use.
type Server struct {
	agent Agent
	opts  Options
	http  *http.Server
	stop  context.CancelFunc // ends the contexts of the calls under way

	mu      sync.Mutex
	calls   int           // under way
	closing bool          // it waits only for running requests
	idle    chan struct{} // closed when closing and none is under way
}

// New returns a server that asks the agent.
func New(agent Agent, opts Options) *Server {
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{agent: agent, opts: opts, stop: stop, idle: make(chan struct{})}
	s.http = &http.Server{
		Handler:           s.routes(),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       identifyCaller,
		ReadHeaderTimeout: readTimeout,
		WriteTimeout:      writeTimeout,
		// Idle connections stay: to end one would race with a call of the engine,
		// whose retry has no body.
		IdleTimeout:    -1,
		MaxHeaderBytes: 64 << 10,
		ErrorLog:       log.New(io.Discard, "", 0), // of peers that went away
	}
	return s
}

// Serve answers on l until Shutdown and returns http.ErrServerClosed then, or
// else the error that keeps it from accepting. It closes l.
func (s *Server) Serve(l net.Listener) error { return s.http.Serve(holding{l}) }

// Shutdown closes the listeners, and waits for the calls under way. When ctx ends
// first, their contexts end and their connections are closed, and it fails.
func (s *Server) Shutdown(ctx context.Context) error {
	defer s.stop()
	err := s.http.Shutdown(ctx)
	if err != nil {
		s.stop()
		err = errors.Join(fmt.Errorf("stop the plugin: %w", err), s.http.Close())
	}
	s.close()
	select {
	case <-s.idle:
		return err
	case <-ctx.Done():
		return errors.Join(err, errors.New("stop the plugin: a call of the agent has not ended"))
	}
}

func (s *Server) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing {
		s.closing = true
		s.finish()
	}
}

// begin counts a call; the function that it returns ends it.
func (s *Server) begin() (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.calls--
		s.finish()
	}
}

// finish tells Shutdown once nothing is under way. The lock is held.
func (s *Server) finish() {
	if !s.closing || s.calls > 0 {
		return
	}
	select {
	case <-s.idle: // a connection that was accepted as the last moment passed
	default:
		close(s.idle)
	}
}
