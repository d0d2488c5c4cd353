// Package steps names the places where a test stops the process: between any two
// acts that a crash could separate. The hooks are compiled in only with the build tag
// "steps"; otherwise At is empty.
//
// With the tag, DROVER_STEP=NAME[:N] and DROVER_STEP_DO say what happens at the
// N-th (default 1st) time that the step is reached: "kill" sends SIGKILL to the
// process itself; "hold:FILE" makes FILE and waits until it is gone. DROVER_SESSION=1s
// has ten times as much happen in a test as the default of 10 s, and
// DROVER_OFF=NAME[,NAME…] switches protections off (test/chaos has their names).
// DROVER_CLOCK=FILE has a clock that is as far off as FILE says, such as -1h30m; none: right.
package steps

// Names lists every step of one host, in the order in which the operations come to
// them.
func Names() []string {
	return []string{
		"mount.begin", "mount.mounted", "mount.recorded",
		"unmount.recorded", "unmount.unmounted",
		"create.begin", "create.made", "create.recorded", "create.committed",
		"clone.begin", "clone.made", "clone.recorded", "clone.committed",
		"import.begin", "import.made", "import.copied", "import.recorded", "import.committed",
		"snapshot.begin", "snapshot.frozen", "snapshot.made", "snapshot.recorded",
		"snapshot-delete.begin", "snapshot-delete.made", "snapshot-delete.recorded",
		"restore.begin", "restore.made", "restore.recorded",
		"resize.begin", "resize.made", "resize.recorded",
		"delete.begin", "delete.recorded",
		"purge.begin", "purge.made", "purge.recorded",
		"pool-remove.begun", "pool-remove.recorded", "pool-remove.cleared",
		"shelf.clear.pool.json", "shelf.clear.datasets",
	}
}
