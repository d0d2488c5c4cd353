// Package cli has the shared parts of the commands of drover: the App that each command works with, flags and their
// errors, lists with filters and orders (list.go, column.go), tables and other output, questions before data is
// destroyed, progress, waiting for operations, completion, and the words with which values are shown. Each run of a
// command line has one App. The fields of the App do not change after the flags were parsed, so they need no lock. The
// exception is an atomic flag that says whether the server answered without control. The package has no other state.
// Where to change what: errors for wrong commands and flags are in usage.go and flags.go, completion in complete.go and
// completeflags.go, the flags and formats of output in output.go, and requests that change something in operate.go.
// Other names of a command, and the words for which it is suggested, are with the command (Aliases and SuggestFor of
// cobra).
package cli
