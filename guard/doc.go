// Package guard fences datasets whose lease is bounded in time. It is a small process
// beside the agent, because fencing must not live in the process that dies: the agent
// registers each such dataset with a deadline and feeds it later ones; a deadline that
// passes unfed is fenced, whether or not the agent lives.
//
// Deadlines are moments of clock.Boottime of this boot. No wall time is read.
//
// # The ladder
//
//	freeze   FIFREEZE, where the dataset has a filesystem of its own
//	stop     the control groups of the holders are frozen, holders without one are
//	         stopped, as are processes with too much to examine in time;
//	         the host's mount is made read-only
//	kill     the holders are killed (Policy kill and watchdog)
//	reboot   the watchdog device is fed no more (Policy watchdog)
//
// Each rung has Options.Step, and is stepped on only when the one before has not made
// sure that nobody can write. From the top the ladder begins anew until it has. A fence
// that is complete is looked after: what somebody undoes is done again, and put on record.
//
// # What survives what
//
// The guard does nothing that may hang: that is done by its hand (package hand), so that
// it can be killed and started at any moment. Registrations and the outcome of each rung
// are kept twice: below Options.Run, which is a tmpfs and survives the guard, and flushed
// below Options.Root, which survives a power cut. Deadlines are kept below Run alone: a
// boot makes them void. A guard that finds no deadline there takes the one of the
// registration, which is earlier: to fence early is safe, to fence late is not.
//
// A guard starts nothing, not even the agent: the agent's absence is what it guards
// against, and a guard that raised it would have to know how, and could keep it from
// being stopped.
package guard
