package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// AcquireName acquires a name that only one process of this host can have, until it is closed or the process ends, also
// by kill -9. The name is an abstract socket (unix(7)), so it needs no file, and does not prevent an unmount. Processes
// in different network namespaces do not see each other's names.
//
// It fails with ErrInUse, which names the process, if another process has the name. It fails with ErrForbidden if that
// process belongs to a user who is neither root nor the caller: the names are readable in /proc/net/unix, and any user
// may take one.
func AcquireName(ctx context.Context, name string) (io.Closer, error) {
	const tries, pause = 30, 10 * time.Millisecond // the process that has the name may be about to end
	addr := "@" + name
	for try := 1; ; try++ {
		if try > 1 {
			select {
			case <-ctx.Done():
				return nil, takenError(name, context.Cause(ctx))
			case <-clock.System{}.After(pause):
			}
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "unix", addr)
		if err == nil {
			return l, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("hold %s: %w", name, err)
		}
		c, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "unix", addr)
		if errors.Is(err, unix.ECONNREFUSED) && try < tries {
			continue
		}
		if err != nil { // the process does not listen, or does not accept connections
			return nil, takenError(name, err)
		}
		cred, err := Peer(c.(*net.UnixConn))
		peer := describePeer(c.(*net.UnixConn))
		_ = c.Close()
		if err == nil {
			if err := checkUser(cred.Uid); err != nil {
				return nil, err
			}
			// A socket that this process has closed is still open in a child that it forked before, until the child
			// calls exec.
			if int(cred.Pid) == os.Getpid() && try < tries {
				continue
			}
		}
		return nil, dataset.Errorf(dataset.ErrInUse, "another drover%s uses it", peer)
	}
}

// takenError returns the error for a name that is in use although no process answers on it.
func takenError(name string, cause error) error {
	if uid, err := owner(name); err == nil {
		if err := checkUser(uid); err != nil {
			return err
		}
	}
	return dataset.Errorf(dataset.ErrInUse, "another process uses it: %w", cause)
}

// checkUser fails with ErrForbidden for a user who is neither root nor the user of this process. For root of a user
// namespace, the kernel reports the user outside of it.
func checkUser(uid uint32) error {
	if uid == 0 || int(uid) == os.Geteuid() {
		return nil
	}
	return dataset.Errorf(dataset.ErrForbidden, "a process of uid %d uses its name", uid)
}

// describePeer describes the process that listens at the other end, if it is visible from here.
func describePeer(c *net.UnixConn) string {
	cred, err := Peer(c)
	if err != nil || cred.Pid <= 0 { // 0 means a PID namespace that is not visible from here
		return ""
	}
	return fmt.Sprintf(" (pid %d)", cred.Pid)
}
