package planning

import (
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// PlanBackup decides to back up a volume or one of its snapshots. The home of the volume does it. If the request names
// no repository, the only one is used.
func PlanBackup(t *record.Tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, err := t.Volume(req.Volume)
	if err != nil {
		return nil, nil, err
	}
	if d.Move != uuid.Nil {
		return nil, nil, dataset.Errorf(dataset.ErrConflict,
			"backup of volume %s: it is being moved to another node (operation %s; try again when that has ended)",
			d.Volume, d.Move)
	}
	op := record.NewOperation(d)
	if op.Scheduled = req.Scheduled; op.Scheduled {
		if err := mayBackUpOnSchedule(t, d, req); err != nil {
			return nil, nil, err
		}
	}
	if req.Snapshot != "" {
		s, err := t.SnapshotOf(d, req.Snapshot)
		if err != nil {
			return nil, nil, err
		}
		op.Snapshot = &s
	}
	if op.Repository, err = chooseRepository(t, req.Repository); err != nil {
		return nil, nil, fmt.Errorf("backup of volume %s: %w", d.Volume, err)
	}
	return op, nil, checkSupports(t, d, dataset.OpBackup, "backup")
}

// chooseRepository returns the name of a repository that is recorded. If name is empty, it returns the only one.
func chooseRepository(t *record.Tx, name string) (string, error) {
	if name != "" {
		_, err := record.GetRepository(t, name)
		return name, err
	}
	all, err := record.ListAll[dataset.Repository](t, record.RepositoriesPrefix)
	if err != nil {
		return "", err
	}
	switch len(all) {
	case 0:
		return "", dataset.Errorf(dataset.ErrNotFound, "no repository is recorded (drover repository add)")
	case 1:
		return all[0].Name, nil
	}
	names := make([]string, len(all))
	for i, r := range all {
		names[i] = r.Name
	}
	return "", dataset.Errorf(dataset.ErrAmbiguous,
		"several repositories are recorded (name one of them with --to: %s)", dataset.FormatChoices(names))
}

// mayBackUpOnSchedule fails unless control itself requests a scheduled backup, as the profile of the dataset says, and
// no earlier one runs. So nobody else can have the retention of scheduled backups remove older ones.
func mayBackUpOnSchedule(t *record.Tx, d dataset.Dataset, req api.Request) error {
	switch p := api.PrincipalOf(t.Context()); {
	case !p.Local || p.From != "":
		return dataset.Errorf(dataset.ErrForbidden, "%s may not request a backup on schedule of volume %s: only "+
			"control does", p, d.Volume)
	case d.Profile.Backup.To == "" || req.Repository != d.Profile.Backup.To || req.Snapshot != "":
		return dataset.Errorf(dataset.ErrConflict, "backup of volume %s: its profile has no such schedule", d.Volume)
	}
	running, err := record.RunningBackup(t, d.ID)
	if err == nil && running != nil {
		err = dataset.Errorf(dataset.ErrConflict, "backup of volume %s: another one runs (operation %s)", d.Volume,
			running.ID)
	}
	return err
}

// CommitBackup checks the result of a backup. It changes no record besides the operation's: the repository has the
// list of the backups. The volume may have been moved or deleted meanwhile.
func CommitBackup(t *record.Tx, op dataset.Operation) error {
	if dataset.CheckBackupID(op.Backup) != nil || op.BytesAdded < 0 {
		return dataset.Errorf(dataset.ErrInvalid, "report of operation %s: the ID of the backup is missing or bad",
			op.ID)
	}
	d := dataset.Dataset{ID: op.DatasetID, Volume: op.Volume}
	t.Event(api.EventVolumeBackup, d, op.Backup[:8]+" in "+op.Repository)
	return nil
}
