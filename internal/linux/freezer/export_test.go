package freezer

import "golang.org/x/sys/unix"

// Kill sends a signal to the child.
func (f *Freezer) Kill(s unix.Signal) error { return f.process.Signal(s) }

// AwaitTick is awaitTick.
var AwaitTick = awaitTick
