// Package guards has drover guard, which runs the guard of a host, and its subcommands.
package guards
