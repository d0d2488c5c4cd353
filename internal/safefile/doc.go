// Package safefile opens, reads and locks files where other users of the host may have put something else: a FIFO that
// never opens, a file that never ends, a lock that is never released. None of its functions waits without a bound. The
// agent, control, the backends, and packages fsctl, pki and socket read and lock files with it. It keeps no state. All
// functions are safe for concurrent use. The checks of a path are in walk.go, locks are in lock.go, who holds a lock is
// found in holders.go, and the limits of reading are in read.go.
package safefile
