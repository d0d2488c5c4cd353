// Package safefile opens, reads and locks files where other users of the host may have put something else: a FIFO that
// never opens, a file that never ends, a lock that is never released. None of its functions waits without a bound. The
// agent, control, the backends, and packages fsctl, pki and socket read and lock files with it. It keeps no state. All
// functions are safe for concurrent use. walk.go checks paths, lock.go locks files, holders.go finds the processes that
// hold a lock, and read.go reads files with limits.
package safefile
