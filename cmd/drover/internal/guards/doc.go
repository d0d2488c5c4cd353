// Package guards has drover guard, which runs the guard of a host, and its subcommands. Package main adds them to the
// command tree, and passes DialGuard to the commands as App.Fencer. The package has no state. The state of the guard is
// in package guard.
package guards
