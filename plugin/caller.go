package plugin

import (
	"context"
	"net"
	"strings"

	"github.com/droverhq/drover/internal/linux/process"
	"github.com/droverhq/drover/internal/socket"
)

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

// The engines that are recognized.
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

// toolOf returns the tool that a process belongs to.
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
