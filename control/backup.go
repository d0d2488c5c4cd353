package control

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// planBackup decides to back up a volume or one of its snapshots. The home of the volume does it. If the request names
// no repository, the only one is used.
func planBackup(t *record.Tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, op, err := newBackup(t, req)
	if err != nil {
		return nil, nil, err
	}
	if op.Scheduled = req.Scheduled; op.Scheduled {
		if err := mayBackUpOnSchedule(t, d, req); err != nil {
			return nil, nil, err
		}
	}
	if op.Repository, err = chooseRepository(t, cmp.Or(req.Repository, d.Profile.Backup.To)); err != nil {
		return nil, nil, fmt.Errorf("backup of volume %s: %w", d.Volume, err)
	}
	if err := chooseParent(t, d, op); err != nil {
		return nil, nil, err
	}
	return op, nil, nil
}

// newBackup returns the volume that a backup or push reads, and the operation with the snapshot that the request
// names. It fails with dataset.ErrConflict while the volume is being moved.
func newBackup(t *record.Tx, req api.Request) (d dataset.Dataset, op *dataset.Operation, err error) {
	if d, err = t.Volume(req.Volume); err != nil {
		return d, nil, err
	}
	if d.Move != uuid.Nil {
		return d, nil, dataset.Errorf(dataset.ErrConflict,
			"%s of volume %s: it is being moved to another node (operation %s; try again when that has ended)",
			req.Kind, d.Volume, d.Move)
	}
	op = record.NewOperation(d)
	if req.Snapshot != "" {
		s, err := t.SnapshotOf(d, req.Snapshot)
		if err != nil {
			return d, nil, err
		}
		op.Snapshot = &s
	}
	return d, op, nil
}

// planPush decides to push a volume, or one of its snapshots, to a name in a repository: that of the request or, if it
// is empty, that of the volume. The home of the volume pushes it. It refuses if the volume lacks the newest version of
// that name in the repository.
func planPush(t *record.Tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, op, err := newBackup(t, req)
	if err != nil {
		return nil, nil, err
	}
	what := "push of volume " + d.Volume
	op.Push = &dataset.Push{Name: cmp.Or(req.Name, d.Volume), By: api.PrincipalOf(t.Context()).String()}
	if err := dataset.CheckName(op.Push.Name); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", what, err)
	}
	if req.Repository == "" {
		return nil, nil, dataset.Errorf(dataset.ErrInvalid, "%s: expected the name of a repository", what)
	}
	if op.Repository, err = chooseRepository(t, req.Repository); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", what, err)
	}
	if err := chooseParent(t, d, op); err != nil {
		return nil, nil, err
	}
	return op, nil, nil
}

// chooseParent writes into the operation of a backup or push which earlier backup is restic's parent, or why there is
// none. The agent uses no other one.
func chooseParent(t *record.Tx, d dataset.Dataset, op *dataset.Operation) error {
	op.Content = d.Content
	if op.Snapshot != nil { // the volume does not continue from the snapshot in the way that restic needs
		op.ReadsAll = "it is a backup of a snapshot"
		return nil
	}
	parent, err := record.ParentOf(t, d, op.Repository)
	if op.Parent, op.ParentSession = parent.ID, parent.Session; parent.ID == "" {
		op.ReadsAll = "no exact backup of this content is recorded"
	}
	return err
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

// checkBackupReport fails with dataset.ErrInvalid if a field in the report of a backup or push cannot be right.
func checkBackupReport(op dataset.Operation) error {
	if dataset.CheckBackupID(op.Backup) != nil || op.BytesAdded < 0 || op.Kind == dataset.OpPush && op.Push == nil ||
		len(op.Parent)+len(op.ExactSession)+len(op.ReadsAll) > dataset.MaxLine {
		return dataset.Errorf(dataset.ErrInvalid, "report of operation %s: the ID of the backup is missing or bad, or "+
			"a field is too long", op.ID)
	}
	return nil
}

// commitBackup checks the result of a backup, and records it as the parent of the next one if it can be that. It
// changes no other record: the repository has the list of the backups. The volume may have been moved or deleted
// meanwhile.
func commitBackup(t *record.Tx, op dataset.Operation) error {
	if err := checkBackupReport(op); err != nil {
		return err
	}
	d := dataset.Dataset{ID: op.DatasetID, Volume: op.Volume}
	t.Event(api.EventVolumeBackup, d, describeBackup(op))
	return record.PutParent(t, op)
}

// commitPush checks the result of a push, and records that the volume continues the new version. The volume may have
// been moved or deleted meanwhile.
func commitPush(t *record.Tx, op dataset.Operation) error {
	if err := checkBackupReport(op); err != nil {
		return err
	}
	t.Event(api.EventVolumePush, dataset.Dataset{ID: op.DatasetID, Volume: op.Volume},
		fmt.Sprintf("version %.8s of %s/%s", op.ID, op.Repository, op.Push.Name))
	if err := record.PutParent(t, op); err != nil {
		return err
	}
	var d dataset.Dataset
	there, err := t.Get(record.DatasetKey(op.DatasetID), &d)
	if err != nil || !there || d.State == dataset.StatePurging {
		return err
	}
	ref := dataset.VersionRef{Repository: op.Repository, Name: op.Push.Name, Version: op.ID}
	d.BasedOn = dataset.WithRef(d.BasedOn, ref)
	return t.PutDataset(d)
}

// maxRemovals is how many times an agent tries to remove an expired backup. It reports the same operation again right
// before it tries. restic removes a backup only while nothing else uses the repository, so several attempts can be
// necessary. Control does not learn whether the agent has removed it.
const maxRemovals = 30

// expireBackups applies retention to the scheduled backups of the dataset id, after the operation op has made one that
// the transaction has recorded as good. It sets Expired, Retained and Reading of out. If op did not make the last good
// scheduled backup, they are empty.
func expireBackups(t *record.Tx, op, id uuid.UUID, now time.Time, out *api.Committed) error {
	out.Expired, out.Retained, out.Reading = nil, nil, nil // the transaction can run again
	var b record.Backups
	_, err := t.Get(record.BackupsKey(id), &b)
	if dataset.KindOf(err) == dataset.ErrCorrupt {
		return nil // the operation ends nevertheless, and an event names the record
	} else if err != nil {
		return err
	}
	last := len(b.Made) - 1
	if last < 0 || b.Made[last].Operation != op {
		return nil
	}
	d, err := t.Dataset(id)
	if err != nil {
		return err
	}
	kept := retainedBackups(b.Made, d.Profile.Backup.Keep, now, time.Local)
	if !slices.Contains(slices.Collect(maps.Values(kept)), false) {
		return nil
	}
	if damaged, err := record.IsDamaged(t, id, b.Made[last].Repository); damaged || err != nil {
		return err // the older backups can be the last good ones
	}
	inUse, err := record.OpenRestores(t)
	if dataset.KindOf(err) == dataset.ErrCorrupt {
		return nil // a damaged record of any operation must not keep a good backup from being recorded
	} else if err != nil {
		return err
	}
	var stay []record.ScheduledBackup
	out.Reading = slices.Sorted(maps.Keys(inUse))
	out.Retained = []string{b.Made[last].ID}
	for i, m := range b.Made {
		keep, counts := kept[i]
		switch {
		case !counts:
		case keep:
			out.Retained = append(out.Retained, m.ID)
		case !inUse[m.ID]:
			if b.Asked == op {
				m.Removals++
			} else if m.Removals >= maxRemovals {
				continue
			}
			out.Expired = append(out.Expired, api.ExpiredBackup{
				ID: m.ID, Operation: m.Operation, Final: m.Removals >= maxRemovals,
			})
		}
		stay = append(stay, m)
	}
	b.Made, b.Asked = stay, op
	return t.Put(record.BackupsKey(id), b)
}

// retainedBackups returns whether a rule of keep retains each backup, by its index in made. made has the backups in the
// order in which they were made. Three kinds of backups always stay, and have no entry in the result: the last backup,
// the backups in another repository than that of the last one, and backups from the future. The clock was wrong when a
// backup from the future was made, or is wrong now. Such a backup does not count for the rules.
func retainedBackups(made []record.ScheduledBackup, keep dataset.Keep, now time.Time, loc *time.Location) map[int]bool {
	var newest []time.Time
	var at []int
	last := len(made) - 1
	for i := last; i >= 0; i-- {
		if made[i].Repository == made[last].Repository && !made[i].Time.After(now) {
			newest, at = append(newest, made[i].Time), append(at, i)
		}
	}
	retained := map[int]bool{}
	for i, kept := range keep.Retained(newest, loc) {
		if at[i] != last {
			retained[at[i]] = kept
		}
	}
	return retained
}

// planVerify decides to restore a backup into a temporary dataset, which is never recorded. If a node requests it, that
// node does it. Otherwise any node whose pools suit the profile may do it.
func (s *Service) planVerify(t *record.Tx, node uuid.UUID, req api.Request) (*dataset.Operation, *dataset.Dataset,
	error) {
	if req.Scheduled {
		op, err := s.planScheduledVerify(t, req)
		return op, nil, err
	}
	if req.Repository == "" || req.Backup == "" {
		return nil, nil, dataset.Errorf(dataset.ErrInvalid,
			"verification of a backup of volume %q: expected both repository and backup", dataset.Clip(req.Volume))
	}
	w, err := parseCreate(req)
	if err != nil {
		return nil, nil, s.addProfiles(err, req)
	}
	if w.spec.From != "" || w.opts.Labels != nil || w.opts.Protect || w.opts.ReadOnly || w.opts.Node != "" {
		return nil, nil, dataset.Errorf(dataset.ErrInvalid,
			"verification of a backup of volume %q: unexpected option (available: fs, pool, profile, size)",
			w.spec.Name)
	}
	if _, err := record.GetRepository(t, req.Repository); err != nil {
		return nil, nil, err
	}
	p, err := s.Deps.Profiles().Get(w.spec.Profile)
	if err != nil {
		return nil, nil, err
	}
	op, err := s.verifyInto(t, w.spec.Name, w.opts.Apply(p), node, req)
	if err != nil {
		return nil, nil, err
	}
	return op, nil, nameBackedUp(t, op)
}

// verifyInto returns the operation of a verification that restores a backup of a volume into a temporary dataset with a
// profile. If node is not uuid.Nil, that node does it.
func (s *Service) verifyInto(t *record.Tx, volume string, p dataset.Profile, node uuid.UUID, req api.Request) (
	*dataset.Operation, error) {
	d := dataset.Dataset{
		// A rebuild of the store while the temporary dataset exists must not make the dataset a volume.
		ID: uuid.New(), Volume: volume, State: dataset.StatePurging, Epoch: 1, Created: s.Clock.Now(), Profile: p,
	}
	d.Profile.Replicas, d.Profile.Failover = dataset.Replicas{}, dataset.Failover{}
	d.Profile = d.Profile.WithoutSchedules()
	d.Size = d.Profile.Size
	pool, err := s.placer.Place(t, placement.Requirement{
		ID: d.ID, Subject: "verification of a backup of volume " + d.Volume, Profile: d.Profile, Requester: node,
		RequesterOnly: true, Temporary: true,
	})
	if err != nil {
		return nil, err
	}
	d.Pool, d.Home = pool.ID, pool.Node
	op := &dataset.Operation{
		Volume: d.Volume, DatasetID: d.ID, Node: d.Home, Epoch: d.Epoch, DatasetRecord: &d,
		Options: maps.Clone(req.Options), Repository: req.Repository, Backup: req.Backup, Check: req.Check,
	}
	return op, nil
}

// planScheduledVerify decides to verify the newest scheduled backup of a volume on its home.
func (s *Service) planScheduledVerify(t *record.Tx, req api.Request) (*dataset.Operation, error) {
	d, err := t.Volume(req.Volume)
	if err != nil {
		return nil, err
	}
	if err := mayVerifyOnSchedule(t, d, req); err != nil {
		return nil, err
	}
	if _, err := record.GetRepository(t, req.Repository); err != nil {
		return nil, err
	}
	p := d.Profile.Clone()
	p.Size = d.Size
	if p.Filesystem.Chosen { // by the pool of the volume
		p.Filesystem.Chosen, p.Filesystem.Type = false, ""
	}
	op, err := s.verifyInto(t, d.Volume, p, d.Home, req)
	if err == nil {
		op.Scheduled, op.BackupOf = true, d.ID
	}
	return op, err
}

// mayVerifyOnSchedule fails unless control itself requests the verification of the newest scheduled backup of a
// dataset, as its profile says, and no earlier one runs.
func mayVerifyOnSchedule(t *record.Tx, d dataset.Dataset, req api.Request) error {
	switch p := api.PrincipalOf(t.Context()); {
	case !p.Local || p.From != "":
		return dataset.Errorf(dataset.ErrForbidden, "%s may not request a verification on schedule for volume %s: "+
			"only control does", p, d.Volume)
	case !d.Profile.Backup.Verify.Restore || req.Check != d.Profile.Backup.Verify.Check:
		return dataset.Errorf(dataset.ErrConflict, "verification of a backup of volume %s: its profile has no such "+
			"schedule", d.Volume)
	}
	newest, err := record.NewestBackup(t, d.ID)
	if err != nil {
		return err
	}
	if newest.ID == "" || newest.ID != req.Backup || newest.Repository != req.Repository {
		return dataset.Errorf(dataset.ErrConflict, "verification of a backup of volume %s: a newer one was made "+
			"meanwhile", d.Volume)
	}
	running, err := record.RunningVerification(t, d.ID)
	if err == nil && running != nil {
		err = dataset.Errorf(dataset.ErrConflict, "verification of a backup of volume %s: another one runs (operation "+
			"%s)", d.Volume, running.ID)
	}
	return err
}

// nameBackedUp records in a verification the dataset that now has the name of the volume. The agent removes it from its
// report if the backup is of another dataset.
func nameBackedUp(t *record.Tx, op *dataset.Operation) error {
	var claim record.Claim
	if there, err := t.Get(record.NameKey(op.Volume), &claim); err != nil || !there {
		return err
	}
	op.BackupOf = claim.ID
	return nil
}

// commitVerify publishes that a backup was verified. It changes no record besides the operation's. recorded is the
// operation as it was planned.
func commitVerify(t *record.Tx, recorded dataset.Operation) {
	t.Event(api.EventVolumeVerify, verified(recorded), describeBackup(recorded))
}

// failVerify publishes that a backup cannot be restored. problem is the reason why its verification failed. failVerify
// publishes nothing unless the backup is damaged, or the repository does not have it. With any other problem, such as a
// lack of space, a wrong password or a repository that does not answer, nothing is known about the backup.
func failVerify(t *record.Tx, recorded dataset.Operation, problem dataset.Problem) {
	if kind := dataset.KindOf(problem.Err()); kind == dataset.ErrCorrupt || kind == dataset.ErrNotFound {
		t.Event(api.EventVolumeVerifyFail, verified(recorded), describeBackup(recorded)+": "+problem.Message)
	}
}

// verified returns the volume for the event of a verification. Its dataset is temporary, and not named.
func verified(recorded dataset.Operation) dataset.Dataset {
	return dataset.Dataset{Volume: recorded.Volume}
}

// describeBackup names the backup that an operation has made or read.
func describeBackup(op dataset.Operation) string {
	text := op.Backup[:min(len(op.Backup), 8)] + " in " + op.Repository
	if op.Check != "" {
		text += ", checked by " + op.Check
	}
	if op.ReadsAll != "" {
		text += ", read everything: " + op.ReadsAll
	}
	return text
}
