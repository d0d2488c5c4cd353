package run

import (
	"errors"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// start starts a command from the thread of the caller. If hostname is not empty, the command gets it as its host name,
// in a UTS namespace (uts_namespaces(7)). Without the right to make one, the command sees the name of the host.
func start(cmd *exec.Cmd, hostname string) (err error) {
	if hostname == "" {
		return cmd.Start()
	}
	runtime.LockOSThread()
	was, err := os.Open("/proc/thread-self/ns/uts")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	if unix.Unshare(unix.CLONE_NEWUTS) != nil {
		runtime.UnlockOSThread()
		return errors.Join(cmd.Start(), was.Close())
	}
	defer func() {
		if unix.Setns(int(was.Fd()), unix.CLONE_NEWUTS) == nil {
			runtime.UnlockOSThread()
		} // otherwise this thread ends with the goroutine
		err = errors.Join(err, was.Close())
	}()
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return err
	}
	return cmd.Start() // the process inherits the namespace of this thread
}
