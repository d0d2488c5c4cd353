// Package guards has drover guard, which runs the guard of a host, and its subcommands. Package main adds them to the
// command tree. The package has no state. The state of the guard is in package guard.
package guards
