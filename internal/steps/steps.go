// Package steps names the places at which a test can stop the process: between any two actions that a crash could
// separate. The agent, control, the guard, the backends and cmd/drover/internal/projects call At there. Packages
// agent/lease, control/record, control/relocation and guard call Off, package clock calls AdjustTime, and
// cmd/drover/internal/daemon calls Session.
// The hooks exist only with the build tag "steps". With it, the only state is the number of times that the step was
// reached, an atomic counter. Without the tag, At does nothing, and the package has no state. To add a step, call At
// with a new name. If it is a step of an operation of one host, also add the name to Names. The creation of a dataset
// puts its names together, such as "clone" and ".begin".
//
// With the tag, these environment variables have an effect:
//
//   - DROVER_STEP=NAME[:N] and DROVER_STEP_DO define what happens when the step is reached for the N-th time (default
//     1). "kill" sends SIGKILL to the process itself. "hold:FILE" creates FILE and waits until it is removed.
//   - DROVER_SESSION=1s makes all times of leases ten times as short as the default of 10 s.
//   - DROVER_OFF=NAME[,NAME…] disables protections (test/chaos has their names).
//   - DROVER_CLOCK=FILE adds the duration in FILE, such as -1h30m, to the time of the clock. If FILE does not exist,
//     the clock is correct.
package steps

// Names lists the steps of the operations of one host, in the order in which operations reach them. A test of
// test/faults kills Drover at each of them. Other steps, such as those of moves and fences, are not listed.
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
		"backup.cloned", "backup.mounted", "backup.stored",
		"push.stored", "push.entered",
		"backup-restore.written",
		"verify.begin", "verify.made", "verify.compared", "verify.checked", "verify.removed",
		"delete.begin", "delete.recorded",
		"purge.begin", "purge.made", "purge.recorded",
		"pool-remove.begun", "pool-remove.recorded", "pool-remove.cleared",
		"shelf.clear.pool.json", "shelf.clear.datasets",
	}
}
