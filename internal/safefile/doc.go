// Package safefile opens, reads and locks files where other users of the host may have put
// something else: a FIFO that never opens, a file that never ends, a lock that is never
// released. No function of it waits without a bound. All functions are safe for concurrent use.
package safefile
