// Package guard fences datasets whose lease is bounded in time. The guard is a small process beside the agent, because
// the process that may fail must not be the one that fences. The agent registers each such dataset with a deadline, and
// extends the deadline regularly. When a deadline passes, the guard fences the dataset, whether or not the agent runs.
//
// The agent and the commands of the operator send their requests with a Client. ExecFence is independent of the guard.
// Guard has the table of registered datasets, the process of the agent that sent the last request, and the
// watchdog device that it keeps open. Its mutex protects all three. The files that are listed below store the table.
// The records that wait to be flushed (records) have a mutex. A request that
// changes an entry marks the entry as busy, and releases the mutex while the hand (see below) works.
//
// Where to change what: the order of the rungs and their time are in ladder.go. What a rung does to a process is in
// package hand (stop.go, freeze.go). How a fence ends is in release.go. What the agent can request is in requests.go,
// types.go. The watchdog device is in watchdog.go. Its timeout and the options of the process are in
// daemon.go (Daemon).
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
// Each rung of the ladder may take Options.Step, or longer on a host with many processes. The guard tries the next rung
// only if a process may still be able to write after the previous one. After the last rung it starts again at the first
// one. It keeps checking a complete fence: if a process or an operator undoes a part of it, the guard repairs the fence
// and records the breach.
//
// # What survives
//
// The guard itself performs no operation that may hang in the kernel. Its child process, the hand (package hand),
// performs these operations. So the guard can be killed and restarted at any time.
//
//	                                    in Options.Run (tmpfs)    below Daemon.Root (disk)
//	registrations, results of rungs     yes, survives the guard   yes, flushed: survives a power cut
//	deadlines                           yes, survives the guard   no: a boot makes them invalid
//
// If the guard finds no deadline in Options.Run, it uses the deadline of the registration, which is earlier. It is
// safe to fence early, but not to fence late.
//
// The guard starts no process but the hand. In particular it does not start the agent: it would have to know how the
// agent is started, and could prevent an operator from stopping it.
package guard
