package plugin

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

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
