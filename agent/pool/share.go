package pool

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
)

// inform records the properties of a pool that was opened and that do not change.
func (op *Pool) inform(can dataset.Capabilities, is backends.Info) {
	op.Capabilities, op.Holds, op.Missing, op.Note, op.Share = can, is.Holds, is.Missing, is.Note, is.Share
	if table, err := mount.Table(); err == nil {
		op.Memory = table.InMemory(is.Path)
	}
	if op.Memory != "" { // first, because the note is shown to the user who makes a pool
		op.Note = op.InMemory() + "; " + op.Note
	}
	if op.Share != uuid.Nil {
		op.Reach = dataset.ReachCluster
	}
}

// InMemory returns the warning for a pool in memory.
func (op *Pool) InMemory() string {
	return "it is on " + op.Memory + ": its data is in memory and is gone at a reboot"
}

// sameShare fails if a pool is on another share than it was made on: control would direct other nodes to volumes
// that they do not find.
func (op *Pool) sameShare(is backends.Info) error {
	if op.Record.Share == uuid.Nil || op.Record.Share == is.Share {
		return nil
	}
	return dataset.Errorf(dataset.ErrOffline,
		"what is mounted at %s says that it is share %s, and the pool was made on share %s (mount that one, "+
			"or bring its share.json back)", is.Path, is.Share, op.Record.Share)
}
