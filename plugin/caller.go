package plugin

import (
	"context"
	"net"

	"github.com/droverhq/drover/internal/process"
	"github.com/droverhq/drover/internal/socket"
)

type callerKey struct{}

// WithCaller returns a context whose request was made by a process.
func WithCaller(ctx context.Context, caller process.Identity) context.Context {
	return context.WithValue(ctx, callerKey{}, caller)
}

// Caller returns the process that opened the connection of a request. The zero value says that it
// is not known: the socket has another transport, or the process is in a PID namespace that this one
// does not see, or has ended.
func Caller(ctx context.Context) process.Identity {
	caller, _ := ctx.Value(callerKey{}).(process.Identity)
	return caller
}

// identifyCaller notes which process opened a connection (unix(7), SO_PEERCRED). The start time is
// read now because the PID may be another process's later.
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
	if err != nil || cred.Pid == 0 { // 0: it is in a PID namespace that is not below this one
		return ctx
	}
	caller, err := process.Of(int(cred.Pid))
	if err != nil {
		return ctx
	}
	return WithCaller(ctx, caller)
}
