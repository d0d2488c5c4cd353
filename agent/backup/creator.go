package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/internal/steps"
	"github.com/droverhq/drover/internal/tree"
)

// Creator makes backups. Its methods are safe for concurrent use.
type Creator struct {
	*operation.Operations
	repositories *Checker
	version      string // of this program, for the records
	cluster      Cluster

	targets targets  // the repositories
	clones  host.Set // one for each clone: its backup runs, or it is removed
	held    heldClones
	// absent has expired backups that are not in their repository any more, so that they are not looked for again.
	absent absentBackups
	// facts gets the new backups, so that the Restorer need not read or measure them.
	facts *facts
}

// Create makes the backup of an operation. If an earlier run of the operation was interrupted after it had stored a
// backup, nobody knows whether restic could read all files for that backup. So Create makes another backup, which
// shares the data with the earlier one. The earlier one stays until the new one expires: after the restore of an older
// store, it may be the result of an operation that had ended. If control does not record the outcome, Create fails, and
// the new backup stays unless the operation was cancelled.
func (c *Creator) Create(ctx context.Context, jb *host.Job, op *dataset.Operation) (out api.Committed, err error) {
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx) // it was cancelled, or the agent stops
		}
	}()
	jb.Step("waiting for other backups")
	release, err := c.admit(ctx, *op)
	if err != nil {
		return out, err
	}
	defer release()
	failed := func(err error) error {
		if op.Push != nil {
			return fmt.Errorf("push of volume %s to %s/%s: %w", op.Volume, op.Repository, op.Push.Name, err)
		}
		return fmt.Errorf("backup of volume %s to %s: %w", op.Volume, op.Repository, err)
	}
	jb.Step("reading the repository")
	if err := c.discardClones(ctx, op.DatasetID); err != nil {
		return out, failed(err)
	}
	got, err := c.attempt(ctx, jb, *op)
	if err == nil {
		steps.At("backup.stored")
	}
	c.noteUnwanted(ctx, *op, got.url, got.unwanted...)
	if len(got.unwanted) > 0 || err != nil && ctx.Err() == nil {
		release()
		c.removeUnwanted(context.WithoutCancel(ctx), op.Repository, false)
	}
	if err != nil {
		return out, failed(err)
	}
	op.Backup, op.BytesAdded, op.Parent = got.made.ID, got.summary.BytesAdded, got.made.Parent
	op.ExactSession, op.ReadsAll, op.Lacks = got.exactSession, got.readsAll, got.lacks
	out, err = c.Runner.Report(context.WithoutCancel(ctx), op, nil) // the backup exists
	switch {
	case errors.Is(err, dataset.ErrCancelled):
		c.noteUnwanted(ctx, *op, got.url, got.stored()...)
		release()
		c.removeUnwanted(context.WithoutCancel(ctx), op.Repository, false)
	case err != nil:
		err = fmt.Errorf("%w (backup %s of volume %s is in %s)", err, short(got.made.ID), op.Volume, op.Repository)
	default:
		release()
		c.removeExpired(context.WithoutCancel(ctx), *op, out)
	}
	return out, err
}

// attemptResult is what one run of an operation did.
type attemptResult struct {
	made     restic.Backup
	summary  restic.Summary
	lacks    string   // what the backup lacks of the files of the volume
	entry    string   // ID of the entry of a push
	unwanted []string // backups of the operation that must be removed, also if the run fails
	url      string   // of the repository
	// exactSession and readsAll are those of dataset.Operation.
	exactSession, readsAll string
}

// stored returns the IDs of what the run has stored.
func (a attemptResult) stored() (ids []string) {
	for _, id := range []string{a.entry, a.made.ID} {
		if id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// attempt stores a backup in the repository of an operation. Even if it fails, it returns the backups that must be
// removed.
func (c *Creator) attempt(ctx context.Context, jb *host.Job, op dataset.Operation) (a attemptResult, err error) {
	record, err := c.Control.Repository(ctx, op.Repository)
	if err != nil {
		return a, err
	}
	a.url = record.URL
	repo, err := c.repositories.Restic(ctx, record)
	if err != nil {
		return a, err
	}
	if op.Push != nil {
		err = c.push(ctx, jb, op, repo, &a)
	} else {
		err = c.store(ctx, jb, op, repo, &a)
	}
	if err == nil {
		return a, nil
	}
	a.unwanted = append(a.unwanted, a.stored()...)
	return a, err
}

// admit waits until no other backup of the dataset to the repository runs, and fewer than maxBackups of all datasets.
func (c *Creator) admit(ctx context.Context, op dataset.Operation) (release func(), err error) {
	t := c.targets.get(op.Repository)
	unlock, err := t.busy.Lock(ctx, op.DatasetID, "backup of volume "+op.Volume)
	if err != nil {
		return nil, err
	}
	if t.slots.Acquire(ctx, 1) != nil {
		unlock()
		return nil, context.Cause(ctx)
	}
	return sync.OnceFunc(func() { t.slots.Release(1); unlock() }), nil
}

// ofAbsent says in the error of a repository that does not exist what to do.
func ofAbsent(err error) error {
	if errors.Is(err, dataset.ErrNotFound) {
		err = fmt.Errorf("%w (mount its disk, or add the repository with the right URL under another name)", err)
	}
	return err
}

// madeBy returns the IDs of the backups in a list that, by their tags, an earlier run of the operation made.
func madeBy(list []restic.Backup, op dataset.Operation) (ids []string) {
	for _, b := range list {
		if t, ok := ParseTags(b.Tags); ok && t.Dataset == op.DatasetID && t.Operation == op.ID {
			ids = append(ids, b.ID)
		}
	}
	return ids
}

// chooseParent returns the ID of the backup that restic compares the files of a clone with, or why there is none. It is
// only ever the one that control has recorded: anybody with the password can store a backup with any tags. d is the
// record of the dataset when the clone was made, and session its session then: see mounting.Watcher.
func chooseParent(op dataset.Operation, d dataset.Dataset, session string) (parent, readsAll string) {
	switch {
	case op.Parent == "":
		return "", op.ReadsAll
	case d.Content != op.Content:
		return "", "the content of the volume was replaced meanwhile"
	case op.ParentSession != session:
		return "", "the volume was mounted or unmounted, or drover was started, since its last exact backup"
	}
	return op.Parent, ""
}

// store makes a clone, stores it with restic, and removes it. It ends before the clone fills the pool. a has the
// result. If store fails, a backup in it is incomplete.
func (c *Creator) store(ctx context.Context, jb *host.Job, op dataset.Operation, repo *restic.Repository,
	a *attemptResult) error {
	made := cloned{id: uuid.New()}
	end := c.Keys.BorrowKey(made.id, op.DatasetID)
	defer end()
	unlock, err := c.clones.Lock(ctx, made.id, "backup of volume "+op.Volume)
	if err != nil {
		return err
	}
	jb.Step("cloning")
	var release func()
	made.source, made.pool, release, err = c.LockForOperation(ctx, op, string(op.Kind))
	if err != nil {
		release()
		unlock()
		return err
	}
	source := dataset.Source{Dataset: op.DatasetID}
	if op.Snapshot != nil {
		source.Snapshot = op.Snapshot.ID
	}
	err = c.KeepReserve(ctx, made.pool, source, func(ctx context.Context) error {
		defer func() {
			unlock()
			_ = c.discardClones(context.WithoutCancel(ctx), op.DatasetID) // doctor names those that stay
		}()
		if op.Snapshot != nil && !made.pool.Info().Capabilities.InstantSnapshot {
			release()
			if release, err = c.LockSource(ctx, made.pool, source, "backup of volume "+op.Volume); err != nil {
				return err
			}
		}
		err := c.clone(ctx, op, source, &made)
		release()
		if err != nil {
			return err
		}
		return c.storeClone(ctx, jb, op, repo, made, a)
	})
	if errors.Is(err, dataset.ErrNoSpace) {
		repo.RemoveKilledLock(ctx)
	}
	return err
}

func (c *Creator) storeClone(ctx context.Context, jb *host.Job, op dataset.Operation, repo *restic.Repository,
	made cloned, a *attemptResult) error {
	steps.At("backup.cloned")
	d := made.source
	var parent string
	parent, a.readsAll = chooseParent(op, d, made.session)
	if made.exact && d.Content == op.Content {
		a.exactSession = made.session
	}
	files, err := mounting.OpenTree(ctx, made.pool, made.id, true)
	if err != nil {
		return err
	}
	defer files.Close()
	steps.At("backup.mounted")
	record := newRecord(d, op.Snapshot, made.taken, c.NodeName, c.version, kindOf(files))
	var survey tree.Survey
	_, used, err := statfs(files, d.Size)
	if err == nil {
		survey, err = tree.SurveyTree(ctx, files, max(used, minRepeated)) // checkSurvey allows no more
	}
	if err == nil {
		err = checkSurvey(survey, d.Size, files)
	}
	if err != nil {
		return fmt.Errorf("examine its files: %w", err)
	}
	record.Names, record.Metadata, a.lacks = survey.Names, survey.Metadata.String(), describeLacks(survey)
	text, err := json.Marshal(record)
	if err != nil {
		return err
	}
	tags := Tags{
		Volume: d.Volume, Dataset: d.ID, Cluster: c.cluster.Cluster(), Node: c.NodeName, Operation: op.ID,
		Profile: record.Profile.Name, Snapshot: record.Snapshot,
	}
	if op.Push != nil {
		tags.Pushed = op.Push.Name
	}
	jb.Step("storing" + describeReadsAll(a.readsAll))
	return c.isolate(files, RecordName, text, func(dir string) error {
		request := restic.Request{
			Dir:      dir,
			Names:    []string{DataName, RecordName},
			Tags:     tags.List(),
			Time:     made.taken,
			Parent:   parent,
			Progress: func(p restic.Progress) { jb.SetProgress(p.Bytes, p.TotalBytes) },
		}
		a.made, a.summary, err = repo.Backup(ctx, request)
		if parent != "" && ctx.Err() == nil &&
			(errors.Is(err, dataset.ErrNotFound) || errors.Is(err, dataset.ErrCorrupt)) {
			a.readsAll = "its last exact backup is not in the repository any more, or is damaged"
			err = c.storeAll(ctx, jb, repo, request, a)
		}
		if err != nil {
			return ofAbsent(err)
		}
		c.noteStored(repo, a.made, dataset.Size(survey.Size), text)
		return nil
	})
}

// storeAll repeats a backup without its parent, which could not be read. restic takes data that the repository should
// have for stored, even if they are damaged. So storeAll reads the folders of the new backup.
func (c *Creator) storeAll(ctx context.Context, jb *host.Job, repo *restic.Repository, request restic.Request,
	a *attemptResult) (err error) {
	if a.made.ID != "" { // restic stored it without the folders that the damaged part should have
		a.unwanted = append(a.unwanted, a.made.ID)
	}
	jb.Step("storing" + describeReadsAll(a.readsAll))
	request.Parent = ""
	if a.made, a.summary, err = repo.Backup(ctx, request); err == nil {
		err = repo.CheckFolders(ctx, a.made.ID)
	}
	return err
}

// describeReadsAll returns the end of the name of a step of a backup that reads everything for a reason.
func describeReadsAll(why string) string {
	if why == "" {
		return ""
	}
	return " (reads everything: " + why + ")"
}

// noteStored notes a new backup in the facts, so that a restore on this host needs no run of restic to measure it. size
// is what a restore writes, and record the text of its record.
func (c *Creator) noteStored(repo *restic.Repository, b restic.Backup, size dataset.Size, record []byte) {
	parsed, err := ParseRecord(record)
	if err != nil {
		return // a restore reads it, and reports what is wrong
	}
	c.facts.note(repo, b.ID, func(now *fact) {
		now.backup, now.record, now.size = b, &parsed, size
	})
}

// What restic reads or stores again for holes and hard links is bounded, so that a small volume can neither occupy the
// repository for days nor fill it: see checkSurvey.
const (
	maxReads    = 30        // times what the files use on the disk
	minReads    = 512 << 20 // bytes on the disk from which maxReads counts
	minRepeated = 64 << 20  // bytes of attributes; more only if the files use as much on the disk
)

// checkSurvey fails with dataset.ErrUnsupported if a backup would read or store far more than the files use on the
// disk, or if a restore into a volume of the same size would lack inodes. size is that of the volume, or 0.
func checkSurvey(s tree.Survey, size dataset.Size, files *os.File) error {
	st, used, err := statfs(files, size)
	if err != nil {
		return err
	}
	s.Used = min(s.Used, used) // each file that shares blocks counts all of them
	if limit := maxReads * max(s.Used, minReads); s.Reads > limit {
		return dataset.Errorf(dataset.ErrUnsupported, "restic would read %s, with holes and once for each hard link, "+
			"and at most %s are allowed for files that use %s on the disk (remove hard links or holes; the largest "+
			"file is %s, with %s)",
			dataset.Size(s.Reads).Human(), dataset.Size(limit).Human(), dataset.Size(s.Used).Human(),
			dataset.Clip(s.Longest), dataset.Size(s.LongestReads).Human())
	}
	if limit := max(s.Used, minRepeated); s.Repeated > limit {
		return dataset.Errorf(dataset.ErrUnsupported, "restic would store %s of attributes and targets of links "+
			"again, once for each hard link, and at most %s are allowed (remove attributes or hard links)",
			dataset.Size(s.Repeated).Human(), dataset.Size(limit).Human())
	}
	if st.Files > 0 && s.Inodes > 0 && uint64(s.Inodes) > st.Ffree { // btrfs has no number of inodes
		return dataset.Errorf(dataset.ErrUnsupported, "a restore would need %d more inodes, because restic restores "+
			"each hard link of a symbolic link, FIFO or device as a file of its own, and the volume has only %d "+
			"(remove such hard links)", s.Inodes, st.Ffree)
	}
	return nil
}

// statfs is statfs(2), and how many bytes the files of a volume use at most. size is that of the volume, or 0.
func statfs(files *os.File, size dataset.Size) (st unix.Statfs_t, used int64, err error) {
	if err := unix.Fstatfs(int(files.Fd()), &st); err != nil {
		return st, 0, fmt.Errorf("statfs: %w", err)
	}
	used = int64(st.Blocks-st.Bfree) * st.Frsize
	if size > 0 {
		used = min(used, int64(size))
	}
	return st, used, nil
}

// describeLacks says which files of its volume a backup lacks. It returns "" if it lacks none.
func describeLacks(s tree.Survey) string {
	var lacks []string
	for what, found := range map[string]tree.Found{
		"inode flags (chattr)": s.Flags, "times before 1678 or after 2262": s.Times,
	} {
		if found.Count > 0 {
			first := dataset.Clip(found.First)
			lacks = append(lacks, fmt.Sprintf("%s of %d files, such as %s", what, found.Count, first))
		}
	}
	slices.Sort(lacks)
	return strings.Join(lacks, "; ")
}

// cloned is a clone that restic reads.
type cloned struct {
	id      uuid.UUID
	source  dataset.Dataset // as recorded when the clone was made
	pool    backends.Pool
	taken   time.Time // the moment of its content
	exact   bool      // see dataset.Snapshot
	session string    // of the source when the clone was made: see mounting.Watcher
}

// clone makes a clone of src. The source is locked only meanwhile, by the caller.
func (c *Creator) clone(ctx context.Context, op dataset.Operation, src dataset.Source, made *cloned) error {
	d := made.source
	if d.State != dataset.StateReady {
		return dataset.Errorf(dataset.ErrConflict, "it was deleted meanwhile (drover trash ls)")
	}
	if op.Snapshot == nil && !made.pool.Info().Capabilities.InstantSnapshot {
		remedy := "back up a snapshot, with --snapshot, or use drover volume export"
		if op.Push != nil {
			remedy = fmt.Sprintf("push a snapshot: drover push %s@SNAPSHOT %s", op.Volume, op.Repository)
		}
		return dataset.Errorf(dataset.ErrUnsupported, "its pool copies the whole volume for a "+
			"clone, and the volume can change meanwhile (%s)", remedy)
	}
	if err := c.writeNote(note{Pool: d.Pool, Clone: made.id, Dataset: d.ID, Volume: d.Volume}); err != nil {
		return err
	}
	scratch := d
	scratch.ID, scratch.Size = made.id, 0
	made.session = c.LostWrites.Session(d.ID)
	var err error
	made.taken, made.exact, err = c.Clone(ctx, made.pool, d, scratch, src)
	if op.Snapshot != nil {
		made.taken, made.exact = op.Snapshot.Created, op.Snapshot.Exact
	}
	return c.Pools.AddHint(ctx, d.Pool, err)
}

func (c *Creator) logOf(ctx context.Context, op dataset.Operation) *logrus.Entry {
	return c.LogOf(ctx, dataset.Dataset{Volume: op.Volume, ID: op.DatasetID}).WithField("op", op.ID)
}
