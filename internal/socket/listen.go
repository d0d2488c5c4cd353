package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
)

const (
	// maxPath is the maximum length of a path without the NUL: unix(7), sun_path.
	maxPath = 107
	mode    = 0o660
	// patience is how long a process that listens on a socket may take to accept a connection.
	patience = 2 * time.Second
	// lockWait is the maximum wait for another process that creates its socket at the same path.
	lockWait = 2 * patience
)

// Listener is a socket that Listen created. Close removes its file, unless another process has replaced the file
// meanwhile.
type Listener struct {
	*net.UnixListener
	path        string
	createdFile fs.FileInfo // identifies the socket file that bind created
	once        sync.Once
	err         error
}

// Listen creates a socket at an absolute path and listens. It creates the folder with mode 0755 if it does not exist.
// The file has mode 0660 and the given group or, if that group does not exist, root's group: a user who may connect has
// the power of root.
//
// A socket file on which no process answers is replaced. Listen fails with ErrInUse, which names the process, if one
// answers. It fails with ErrInvalid if the path is too long or not absolute, or is another kind of file.
func Listen(ctx context.Context, path, group string) (*Listener, error) {
	if err := CheckPath(path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	// Two processes that start at the same time must not remove each other's socket.
	unlock, err := safefile.Lock(ctx, path+".lock", lockWait)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	if err := vacate(ctx, path); err != nil {
		return nil, errors.Join(err, unlock())
	}
	l, err := bind(ctx, path, group)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("socket %s: %w", path, err), unlock())
	}
	if err := unlock(); err != nil {
		return nil, errors.Join(fmt.Errorf("socket %s: %w", path, err), l.Close())
	}
	return l, nil
}

// CheckPath fails with ErrInvalid for a path that no socket can have.
func CheckPath(path string) error {
	if !filepath.IsAbs(path) {
		return dataset.Errorf(dataset.ErrInvalid, "socket path %q: expected an absolute path", path)
	}
	if len(path) > maxPath {
		return dataset.Errorf(dataset.ErrInvalid, "socket path %s is %d bytes long: expected %d at most", path,
			len(path), maxPath)
	}
	return nil
}

// vacate removes a socket file on which no process answers.
func vacate(ctx context.Context, path string) error {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("socket %s: %w", path, err)
	case fi.Mode().Type() != fs.ModeSocket:
		return dataset.Errorf(dataset.ErrInvalid,
			"socket %s: another kind of file has this path (remove it, or choose another path)", path)
	}
	c, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		defer c.Close()
		return heldError(path, c.(*net.UnixConn))
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOENT):
	case ctx.Err() != nil:
		return fmt.Errorf("socket %s: %w", path, ctx.Err())
	default:
		return dataset.Errorf(dataset.ErrInUse,
			"socket %s is in use: %w (stop its user, or choose another path)", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("socket %s, on which no process responds: %w", path, err)
	}
	return nil
}

// heldError returns the error for a socket on which another process answers. It names the process.
func heldError(path string, c *net.UnixConn) error {
	if cred, err := Peer(c); err == nil && cred.Pid == 1 {
		return dataset.Errorf(dataset.ErrInUse,
			"systemd listens on %s for a socket unit (start the unit's service, or stop the unit)", path)
	}
	return dataset.Errorf(dataset.ErrInUse, "another drover%s serves %s", describePeer(c), path)
}

// Peer returns the credentials of the process that made the other end of a connection, or listened there:
// unix(7), SO_PEERCRED.
func Peer(c *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return cred, errors.Join(err, cerr)
}

func bind(ctx context.Context, path, group string) (*Listener, error) {
	// The kernel creates the file with the mode of the socket. So only its owner can connect before the file has its
	// group.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, cerr)
	}}
	l, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	ul := l.(*net.UnixListener)
	ul.SetUnlinkOnClose(false)
	created, err := os.Lstat(path)
	if err == nil {
		err = setPermissions(path, group)
	}
	if err != nil {
		_ = ul.Close()
		_ = os.Remove(path)
		return nil, err
	}
	return &Listener{UnixListener: ul, path: path, createdFile: created}, nil
}

func setPermissions(path, group string) error {
	gid := -1
	if os.Geteuid() == 0 {
		gid = 0
	}
	var none user.UnknownGroupError
	switch g, err := user.LookupGroup(group); {
	case err == nil:
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return fmt.Errorf("group %s: %w", group, err)
		}
	case !errors.As(err, &none):
		return fmt.Errorf("group %s: %w", group, err)
	}
	if err := os.Lchown(path, -1, gid); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// Close removes the file and stops listening, in this order: see unlink. A second Close returns
// the same error.
func (l *Listener) Close() error {
	l.once.Do(func() { l.err = errors.Join(l.unlink(), l.UnixListener.Close()) })
	return l.err
}

// unlink removes the socket's file unless the file belongs to a successor. It needs no lock, because no process
// replaces a file on which this process listens: see vacate.
func (l *Listener) unlink() error {
	current, err := os.Lstat(l.path)
	if err == nil && !os.SameFile(current, l.createdFile) {
		return nil
	}
	if err == nil {
		err = os.Remove(l.path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
