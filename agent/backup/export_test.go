package backup

import (
	"context"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
)

// CheckSurvey is checkSurvey.
var CheckSurvey = checkSurvey

// ChooseDue is the method of a Creator that has removed nothing, for one dataset.
func ChooseDue(list []restic.Backup, op dataset.Operation, expired []api.ExpiredBackup,
	reading ...string) []string {
	return new(Creator).chooseDue(list, []dueRemoval{{op, api.Committed{Expired: expired, Reading: reading}}}, true)
}

// StillThere is the method of a Creator that has removed nothing.
func StillThere(op dataset.Operation, expired []api.ExpiredBackup) []api.ExpiredBackup {
	return new(Creator).stillThere(op, expired)
}

// IsFull reports whether the next backup to a repository would wait.
func (c *Creator) IsFull(repository string) bool {
	slots := c.targets.get(repository).slots
	free := slots.TryAcquire(1)
	if free {
		slots.Release(1)
	}
	return !free
}

// Occupy makes the next backups to a repository wait until free is called, as if maxBackups backups ran.
func (c *Creator) Occupy(repository string) (free func()) {
	slots := c.targets.get(repository).slots
	_ = slots.Acquire(context.Background(), maxBackups)
	return func() { slots.Release(maxBackups) }
}
