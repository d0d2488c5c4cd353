// Package guard fences datasets whose lease is bounded in time. The guard is a small process beside the agent, because
// the process that may fail must not be the one that fences. The agent registers each such dataset with a deadline, and
// extends the deadline regularly. When a deadline passes, the guard fences the dataset, whether or not the agent runs.
//
// Deadlines are times of clock.Boottime in this boot. The wall clock is not used.
//
// # The ladder
//
//	freeze   FIFREEZE, if the dataset has a filesystem for itself
//	stop     freeze the control groups of the holders, stop holders without a group of their own, and stop processes
//	         that cannot be examined in time; make the mount of the host read-only
//	kill     kill the holders (policies kill and watchdog)
//	reboot   stop feeding the watchdog device (policy watchdog)
//
// Each rung of the ladder has the time Options.Step. The guard tries the next rung only if the previous one has not
// ensured that no process can write. After the last rung it starts again at the first one. It keeps checking a complete
// fence: if somebody undoes a part of it, the guard repairs it and records that.
//
// # What survives what
//
// The guard itself does nothing that may hang in the kernel. Its child process, the hand (package hand), does that, so
// the guard can be killed and restarted at any time.
//
//	                                    in Options.Run (tmpfs)    in Options.Root (disk)
//	registrations, results of rungs     yes, survives the guard   yes, flushed: survives a power cut
//	deadlines                           yes, survives the guard   no: a boot makes them invalid
//
// If the guard finds no deadline in Options.Run, it uses that of the registration, which is earlier. To fence early is
// safe, to fence late is not.
//
// The guard starts no other process, not even the agent. A guard that started the agent would have to know how, and
// could prevent an operator from stopping it.
package guard
