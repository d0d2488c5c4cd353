package run

import (
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// start starts a command. If hostname is not empty, the command gets it as its host name, in a UTS namespace
// (uts_namespaces(7)). Without the right to make one, the command sees the name of the host.
func start(cmd *exec.Cmd, hostname string) (err error) {
	if hostname == "" {
		return cmd.Start()
	}
	onThread(func() {
		if unix.Unshare(unix.CLONE_NEWUTS) == nil {
			err = unix.Sethostname([]byte(hostname))
		}
		if err == nil {
			err = cmd.Start() // the process inherits the namespace of this thread
		}
	})
	return err
}

// onThread calls do on a thread that ends afterwards, so that do can change attributes of the thread. A process that do
// starts must not have a parent-death signal: it would get the signal at the end of the thread.
func onThread(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// A thread ends with a goroutine that is locked to it. The main thread does not end. If this is the main
		// thread, do runs on another one. This goroutine occupies the main thread meanwhile.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			onThread(do)
			runtime.UnlockOSThread()
			return
		}
		do()
	}()
	<-done
}
