package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// The lock files in a root. The process with the host's agent locks hostLock, and a control replica locks controlLock.
const (
	hostLock    = "lock"
	controlLock = "control.lock"
)

// lockRoot ensures that at most one process with the host's agent and at most one control replica use a root. A second
// one gets an error that names the first one. The kernel releases the lock when the process ends, however it ends.
func lockRoot(root, name string) (unlock func() error, err error) {
	f, err := os.OpenFile(filepath.Join(root, name), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", root, err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		owner, rerr := io.ReadAll(io.LimitReader(f, 64))
		if err := errors.Join(rerr, f.Close()); err != nil {
			owner = []byte("unknown")
		}
		return nil, dataset.Errorf(dataset.ErrInUse, "%[2]s is in use by another drover (pid %[1]s): stop it, or "+
			"choose another --root",
			strings.TrimSpace(string(owner)), root)
	}
	if err == nil {
		if err = f.Truncate(0); err == nil {
			_, err = f.WriteAt([]byte(fmt.Sprintln(os.Getpid())), 0)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", root, err), f.Close())
	}
	return f.Close, nil
}
