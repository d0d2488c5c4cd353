package run

import (
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/thread"
)

// start starts a command. If hostname is not empty, the command gets it as its host name, in a UTS namespace
// (uts_namespaces(7)). Without the right to make one, the command sees the name of the host.
func start(cmd *exec.Cmd, hostname string) (err error) {
	if hostname == "" {
		return cmd.Start()
	}
	thread.Run(func() {
		if unix.Unshare(unix.CLONE_NEWUTS) == nil {
			err = unix.Sethostname([]byte(hostname))
		}
		if err == nil {
			err = cmd.Start() // the process inherits the namespace of this thread
		}
	})
	return err
}
