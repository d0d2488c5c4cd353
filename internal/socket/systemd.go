package socket

import (
	"fmt"
	"net"
	"os"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// PassedSockets contains the sockets that systemd passed to this process: sd_listen_fds(3). Not safe for concurrent
// use.
type PassedSockets struct{ files []*os.File }

// FromSystemd takes the sockets that systemd passed, and removes them from the environment, so that no child process
// uses them. The result is empty if there are none.
func FromSystemd() *PassedSockets { return &PassedSockets{files: activation.Files(true)} }

// Take returns the socket with a name (FileDescriptorName= of the unit) or, if there is none, the socket at a path. It
// returns nil if there is neither. The file belongs to systemd, and remains when the socket is closed. It fails with
// ErrInvalid if it is not a listening unix socket.
func (h *PassedSockets) Take(name, path string) (net.Listener, error) {
	i := h.find(func(f *os.File) bool { return f.Name() == name })
	if i < 0 {
		i = h.find(func(f *os.File) bool { return address(f) == path })
	}
	if i < 0 {
		return nil, nil
	}
	f := h.files[i]
	h.files = append(h.files[:i:i], h.files[i+1:]...)
	defer f.Close()
	accepts, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil || accepts == 0 || address(f) == "" {
		return nil, dataset.Errorf(dataset.ErrInvalid,
			"socket %s of systemd is not a listening unix socket (expected ListenStream=%s and no "+
				"Accept=)", f.Name(), path)
	}
	l, err := net.FileListener(f) // a duplicate, which does not unlink
	if err != nil {
		return nil, fmt.Errorf("socket %s of systemd: %w", f.Name(), err)
	}
	return l, nil
}

func (h *PassedSockets) find(accept func(*os.File) bool) int {
	for i, f := range h.files {
		if accept(f) {
			return i
		}
	}
	return -1
}

// address returns the path to which a unix socket is bound, or "".
func address(f *os.File) string {
	sa, err := unix.Getsockname(int(f.Fd()))
	if u, ok := sa.(*unix.SockaddrUnix); ok && err == nil {
		return u.Name
	}
	return ""
}
