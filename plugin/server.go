package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// The engine waits two minutes for Create and Mount, and one minute for all other calls. The limits here are a little
// less than half of those. So the plugin can answer with the reason of a delay before the engine gives up with an error
// that names no reason.
const (
	longCall  = 55 * time.Second
	shortCall = 25 * time.Second
	// writeTimeout must be longer than any call takes.
	writeTimeout = 130 * time.Second
	readTimeout  = 10 * time.Second
)

// Options are the options of a server besides its agent. The functions must be safe for concurrent use. Each of them
// may be nil.
type Options struct {
	// Global says that every engine of a cluster sees the same volumes.
	Global bool
	// Panicked is called when a call of the agent panics, with the name of the call, the value and the stack.
	Panicked func(ctx context.Context, call string, value any, stack []byte)
	// Called is called after each call of the agent. The engine does not show every error of Get and List to the user,
	// so a log of the errors is their only trace.
	Called func(ctx context.Context, c Call)
}

// Call is a call of the protocol that has ended.
type Call struct {
	Name   string // such as "Mount"
	Volume string // the name that the engine used, or "" if the call names no volume
	Err    error  // the error that the engine got, or nil if the call succeeded
	Took   time.Duration
}

// Server answers the calls of engines. Its methods are safe for concurrent use.
type Server struct {
	agent Agent
	opts  Options
	http  *http.Server
	stop  context.CancelFunc // ends the contexts of the running calls

	grace time.Duration // see Shutdown

	mu      sync.Mutex
	calls   map[string]int // number of running calls of each name
	closing bool           // Shutdown waits for the running calls
	idle    chan struct{}  // closed when closing is true and no call runs
}

// New returns a Server that has agent execute the calls.
func New(agent Agent, opts Options) *Server {
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{agent: agent, opts: opts, stop: stop, grace: grace, calls: map[string]int{}, idle: make(chan struct{})}
	s.http = &http.Server{
		Handler:           s.routes(),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       identifyCaller,
		ReadHeaderTimeout: readTimeout,
		WriteTimeout:      writeTimeout,
		// Idle connections are kept, because closing one could coincide with a call of the engine, whose retry has no
		// body.
		IdleTimeout:    -1,
		MaxHeaderBytes: 64 << 10,
		ErrorLog:       log.New(io.Discard, "", 0), // the server would log peers that closed the connection
	}
	return s
}

// Serve answers calls on l until Shutdown is called, and then returns http.ErrServerClosed. If it can no longer accept
// connections, it returns the reason. It closes l.
func (s *Server) Serve(l net.Listener) error { return s.http.Serve(resettableListener{l}) }

// grace is how long a call may continue after Shutdown was called: less than the time that Shutdown has, so that a call
// which waits for another host, such as a Mount, ends with an error and not with the connection.
const grace = 10 * time.Second

// Shutdown closes the listeners and waits for the running calls. After grace it cancels them. If ctx ends first,
// Shutdown cancels the calls, closes their connections and returns an error that names them.
func (s *Server) Shutdown(ctx context.Context) error {
	defer s.stop()
	defer time.AfterFunc(s.grace, s.stop).Stop()
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
		s.mu.Lock()
		defer s.mu.Unlock()
		return errors.Join(err, fmt.Errorf("stop the plugin: calls of the agent have not ended: %v",
			slices.Sorted(maps.Keys(s.calls))))
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

// begin counts a running call. The caller calls end when the call has ended.
func (s *Server) begin(name string) (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[name]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.calls[name]--; s.calls[name] == 0 {
			delete(s.calls, name)
		}
		s.finish()
	}
}

// finish closes idle if Shutdown was called and no call runs. The caller holds mu.
func (s *Server) finish() {
	if !s.closing || len(s.calls) > 0 {
		return
	}
	select {
	case <-s.idle: // already closed: a connection was accepted just before its listener was closed
	default:
		close(s.idle)
	}
}
