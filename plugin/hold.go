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

// The engine keeps its record of a volume only when Get fails in the transport.
// Closing the connection before an answer is such a failure, but then it tries
// again, for 15 seconds in all, while the name is locked and, at its start,
// nothing else goes on. What it does not try again is an answer whose header has
// arrived and whose body breaks with a network error (pkg/plugins/client.go,
// volume/service/store.go of moby: net.Error). A unix socket gives its peer that
// error, ECONNRESET, when it is closed with unread bytes (unix(7)). So each
// connection leaves its last byte unread until there is a further one.

// holding makes the connections of a listener ones that can be reset.
type holding struct{ net.Listener }

func (h holding) Accept() (net.Conn, error) {
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

// heldConn reads the available bytes by peeking, and takes all but the last byte.
type heldConn struct {
	*net.UnixConn
	raw     syscall.RawConn
	held    int // 1 when the byte at the head of the queue has been given out
	discard [4 << 10]byte
}

func hold(c *net.UnixConn) (*heldConn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	// From now on a peek begins after the bytes of the last one: socket(7).
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

// advance peeks at the new bytes, and takes the seen ones, except for the last byte.
func (c *heldConn) advance(fd int, p []byte) (int, error) {
	n, err := retry(func() (int, error) {
		n, _, err := unix.Recvfrom(fd, p, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return n, err
	})
	if err != nil || n == 0 {
		return 0, err
	}
	for seen := c.held + n; seen > 1; {
		// Not unix.Read: of the two the race detector knows this one.
		took, err := retry(func() (int, error) { return syscall.Read(fd, c.discard[:seen-1]) })
		if err != nil {
			return 0, err
		}
		seen -= took
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

// Close takes the last byte, so that the peer sees an ordinary end.
func (c *heldConn) Close() error {
	last := make([]byte, 1) // a Read may be under way and use discard
	_ = c.raw.Control(func(fd uintptr) {
		_, _, _ = unix.Recvfrom(int(fd), last, unix.MSG_DONTWAIT) // nothing there: nothing to do
	})
	return c.UnixConn.Close()
}

const brokenAnswer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: " +
	"close\r\n\r\n"

// hangUp ends the connection of a call in such a way that the engine knows no
// more than before, and does not ask again where that can be had.
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
