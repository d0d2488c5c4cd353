// Package thread runs functions on threads of their own. A function can change what belongs to a thread there, such as
// its namespaces: no other goroutine ever runs on that thread. Package internal/linux/mount shows mounts to programs
// with it, and test/lan makes its machines. The package has no state.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Run calls do on a thread that ends afterwards, and returns when do has returned. Goroutines that do starts run on
// other threads. A process that do starts gets its parent-death signal at the end of the thread, too (prctl(2)).
func Run(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// A thread ends with a goroutine that is locked to it. The main thread does not end. If this is the main
		// thread, do runs on another one. This goroutine occupies the main thread meanwhile.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			Run(do)
			runtime.UnlockOSThread()
			return
		}
		do()
	}()
	<-done
}
