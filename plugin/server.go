// Package plugin is the server of Docker's volume plugin protocol. It translates each call of an engine into a call of
// Agent, and the result into an answer. The daemon of the agent creates a Server for its plugin socket. Package agent
// implements Agent: mounting.Mounts has Mount and Unmount, and operation.Operations most others. Package
// agent/operation makes a Volume for an answer. Packages agent/operation, agent/mounting and agent/move use Tool and
// Caller, which identify the program and the process that sent a request. A Server stores nothing about volumes. It
// counts the running calls, so that Shutdown can wait for them. A mutex protects the count.
//
// The reaction of the engine to an answer determines which answers are possible:
//
//   - An error is answered with status 500 and its text in the field Err, as docker/go-plugins-helpers does. Podman
//     looks only at the status. With status 200, it takes a refused Create for a new volume, and after a refused Mount
//     it runs the container on a folder of Podman. The Docker engine accepts either status, and retries the call in
//     neither case. For any status other than 200 it puts the name of the call before the text (pkg/plugins/client.go
//     and errors.go of moby). It treats a Get with status 500 like a Get with an Err. A request that cannot be
//     understood is answered with the matching 4xx status and an Err.
//   - A request without a body is the engine's retry of a call whose connection broke: the first attempt consumed the
//     body. The request names no volume, so it is refused and nothing is done (moby#35459, #39331).
//   - Every Err of Get means "no such volume": the engine drops its record of the volume and of the containers that
//     use it. It keeps the record only after an error of the transport. So if Get fails and the volume may exist, the
//     plugin breaks the connection: see mayReachEngine and hangUp. An engine that starts also forgets each volume for
//     which Get answers an Err (volume/service/restore.go of moby).
//   - A Mount that succeeds without a path gives the container a folder of the runtime. A null among the volumes of a
//     List crashes the engine. A time that is not RFC 3339, or a Status that is not an object, makes a volume unknown.
//
// Where to change what: the calls of the protocol, and what is sent to the engine, are in calls.go, and the
// rest here: the time limits, how the process and the program behind a request are identified, and how a connection is
// broken without a retry by the engine. The fields of Status are in agent/operation/viewer.go.
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
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/process"
	"github.com/droverhq/drover/internal/socket"
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

type callerKey struct{}

// WithCaller returns a context whose request was made by a process.
func WithCaller(ctx context.Context, caller process.Identity) context.Context {
	return context.WithValue(ctx, callerKey{}, caller)
}

// Caller returns the process that opened the connection of a request. It returns the zero value if the process is not
// known: the connection is not over a unix socket, or the process has ended, or this process cannot see the PID
// namespace of the other one.
func Caller(ctx context.Context) process.Identity {
	caller, _ := ctx.Value(callerKey{}).(process.Identity)
	return caller
}

// Tool is the container engine that a request comes from. It is empty for another program, or if the program is not
// known.
type Tool string

// The engines that are recognized. The guard recognizes the processes of engines by names of its own, and spares them:
// see guard/hand/look.go.
const (
	Docker Tool = "docker"
	Podman Tool = "podman"
)

type toolKey struct{}

// WithTool returns a context whose request comes from a tool.
func WithTool(ctx context.Context, tool Tool) context.Context {
	return context.WithValue(ctx, toolKey{}, tool)
}

// ToolOf returns the tool that a request comes from. It is determined by the program of the caller's process, because
// the requests of Docker and Podman look alike, and both send the User-Agent of Go's net/http.
func ToolOf(ctx context.Context) Tool {
	tool, _ := ctx.Value(toolKey{}).(Tool)
	return tool
}

func toolOf(caller process.Identity) Tool {
	program, err := caller.Program()
	switch {
	case err != nil:
		return ""
	case program == "podman":
		return Podman
	case strings.HasPrefix(program, "dockerd"): // some installations keep several versions beside each other
		return Docker
	}
	return ""
}

// identifyCaller adds to the context of a connection the process that opened it (unix(7), SO_PEERCRED) and the tool of
// the process. Both are looked up at once, because another process may get the same PID later.
func identifyCaller(ctx context.Context, c net.Conn) context.Context {
	var u *net.UnixConn
	switch c := c.(type) {
	case *heldConn:
		u = c.UnixConn
	case *net.UnixConn:
		u = c
	default:
		return ctx
	}
	cred, err := socket.Peer(u)
	if err != nil || cred.Pid == 0 { // 0: the process is in a PID namespace that is not below this one
		return ctx
	}
	caller, err := process.Of(int(cred.Pid))
	if err != nil {
		return ctx
	}
	return WithTool(WithCaller(ctx, caller), toolOf(caller))
}

// The engine keeps its record of a volume after a failed Get only if the transport failed. Closing the connection
// before an answer is such a failure, but the engine then tries again for 15 seconds in all. Meanwhile it keeps the
// name of the volume locked. If the engine is just starting, its whole start waits.
//
// The engine does not try again if the header of an answer has arrived and the body ends with a network error
// (pkg/plugins/client.go, volume/service/store.go of moby: net.Error). A unix socket that is closed with unread bytes
// gives its peer such an error, ECONNRESET (unix(7)). So each connection leaves its last byte unread until another byte
// arrives.

// resettableListener accepts connections that hangUp can reset.
type resettableListener struct{ net.Listener }

func (h resettableListener) Accept() (net.Conn, error) {
	c, err := h.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if u, ok := c.(*net.UnixConn); ok {
		if held, err := hold(u); err == nil {
			return held, nil
		}
	}
	return c, nil
}

// heldConn is a connection whose socket always contains an unread byte, once a byte has arrived. Read peeks at the
// available bytes, returns them, and removes all but the last one from the socket.
type heldConn struct {
	*net.UnixConn
	raw     syscall.RawConn
	held    int // how many bytes Read has returned and left in the socket: 0 or 1
	discard [4 << 10]byte
}

func hold(c *net.UnixConn) (*heldConn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	// SO_PEEK_OFF makes a peek begin after the bytes of the previous peek: socket(7).
	cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0) })
	if err := errors.Join(err, cerr); err != nil {
		return nil, err
	}
	return &heldConn{UnixConn: c, raw: raw}, nil
}

func (c *heldConn) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	p = p[:min(len(p), len(c.discard)-1)]
	rerr := c.raw.Read(func(fd uintptr) bool {
		n, err = c.advance(int(fd), p)
		return !errors.Is(err, unix.EAGAIN)
	})
	switch {
	case rerr != nil:
		return 0, rerr
	case err != nil:
		return 0, &net.OpError{Op: "read", Net: "unix", Addr: c.LocalAddr(), Err: os.NewSyscallError("recvfrom", err)}
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// advance peeks at the new bytes. It then removes all bytes that it has seen from the socket, except for the last one.
func (c *heldConn) advance(fd int, p []byte) (int, error) {
	n, err := retry(func() (int, error) {
		n, _, err := unix.Recvfrom(fd, p, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return n, err
	})
	if err != nil || n == 0 {
		return 0, err
	}
	for seen := c.held + n; seen > 1; {
		// syscall.Read and not unix.Read, because the race detector knows only the former.
		removed, err := retry(func() (int, error) { return syscall.Read(fd, c.discard[:seen-1]) })
		if err != nil {
			return 0, err
		}
		seen -= removed
	}
	c.held = 1
	return n, nil
}

func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// Close removes the last byte from the socket, so that the peer sees an ordinary end of the connection.
func (c *heldConn) Close() error {
	last := make([]byte, 1) // not discard, which a concurrent Read may be using
	_ = c.raw.Control(func(fd uintptr) {
		_, _, _ = unix.Recvfrom(int(fd), last, unix.MSG_DONTWAIT) // an error means that there is no byte to take
	})
	return c.UnixConn.Close()
}

const brokenAnswer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: " +
	"close\r\n\r\n"

// hangUp ends the connection of a call, so that the engine gets no usable answer. If the connection is a heldConn, the
// engine gets the header of an answer and then a network error, so that it does not send the call again.
func hangUp(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // net/http closes it
	}
	held, ok := conn.(*heldConn)
	if !ok {
		_ = conn.Close()
		return
	}
	_, _ = held.Write([]byte(brokenAnswer))
	_ = held.UnixConn.Close() // the last byte is unread
}
