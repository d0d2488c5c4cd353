package process

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// RunOnThread calls do on a thread that ends afterwards, and returns when do has returned. Goroutines that do starts
// run on other threads. A process that do starts gets its parent-death signal at the end of the thread, too (prctl(2)).
func RunOnThread(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// A thread ends with a goroutine that is locked to it. The main thread does not end. If this is the main
		// thread, do runs on another one. This goroutine occupies the main thread meanwhile.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			RunOnThread(do)
			runtime.UnlockOSThread()
			return
		}
		do()
	}()
	<-done
}
