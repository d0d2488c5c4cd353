package backup

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/internal/steps"
	"github.com/droverhq/drover/internal/tree"
)

// Restorer writes the files of a backup to a new volume. Its only state is what it and the Catalog have read of
// backups, which never changes. Its methods are safe for concurrent use.
type Restorer struct {
	repositories Repositories
	read         *facts
	mounts       string // folder in which restic sees the new volume
}

// Restore writes a backup to an empty volume, and gives the root directory the owner, mode, times and attributes in the
// backup. m is the mount of the volume, from mounting.OpenMount. It can be used for one call only. Restore calls step
// with the name of each step. If version is not nil, a push must have made the backup for that version.
//
// The mount must follow no links and open no devices: a backup can have a link or a device node, and a file with the
// same name, which restic would write through the link or to the device. Restore returns these errors of package
// dataset:
//
//   - ErrNotFound if there is no such backup, or if the repository is not recorded,
//   - ErrInvalid if Drover has not made the backup, or not for the version,
//   - ErrConflict while the backup is being made, or if the push that made it was interrupted,
//   - ErrUnsupported if a later version of Drover made the backup, or if the volume may not be able to store an owner,
//     mode, time or attribute,
//   - ErrNoSpace if the volume or the host's disk is too small,
//   - ErrCorrupt if the backup may lack files, or if a file cannot be restored as it was.
//
// After an error, the volume may contain a part of the files.
func (s *Restorer) Restore(ctx context.Context, repository, id string, version *dataset.VersionRef, m *os.File,
	step func(string)) error {
	_, err := s.restore(ctx, repository, id, version, writer{mount: m, step: step})
	return err
}

// Verify does what Restore does. It reads the record of the backup even if it is known, and reads each file again, and
// compares it with the backup. It returns the UUID of the dataset that was backed up, and the moment of the content, or
// zero values if it could not read these. It fails with dataset.ErrCorrupt if a file differs. If the repository is not
// recorded, or is not at its URL now, it fails with dataset.ErrOffline, and not with dataset.ErrNotFound: nothing is
// known about the backup.
func (s *Restorer) Verify(ctx context.Context, repository, id string, m *os.File, step func(string)) (
	of uuid.UUID, taken time.Time, err error) {
	record, err := s.restore(ctx, repository, id, nil, writer{mount: m, step: step, compare: true})
	return record.Dataset, record.Taken, s.checkAbsent(ctx, repository, err)
}

// Size returns how many bytes a restore of a backup writes. It does not examine the backup. Unless again is set, it
// does not measure a backup whose size is known. If it measures a backup that does not exist, Size fails with the same
// errors as Verify.
func (s *Restorer) Size(ctx context.Context, repository, id string, again bool) (size dataset.Size, err error) {
	r, err := s.repositories.OpenNamed(ctx, repository)
	if err == nil {
		if size = s.read.get(r, id).size; size > 0 && !again {
			return size, nil
		}
		if size, err = r.RestoreSize(ctx, id); err == nil {
			s.read.note(r, id, func(now *fact) { now.size = size })
		}
		err = named(repository, err)
	}
	return size, s.checkAbsent(ctx, repository, err)
}

// otherRemedy says what to do with a backup that Drover has not made.
const otherRemedy = "restore it with restic restore, and import the folder"

// checkAbsent examines the error err of a read of a backup. If err is dataset.ErrNotFound because the repository cannot
// be opened, it returns err with the kind dataset.ErrOffline. Otherwise it returns err.
func (s *Restorer) checkAbsent(ctx context.Context, repository string, err error) error {
	if !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	r, absent := s.repositories.OpenNamed(ctx, repository)
	if absent == nil {
		_, absent = r.Stat(ctx)
	}
	if absent != nil {
		err = dataset.Errorf(dataset.ErrOffline, "%w", err)
	}
	return err
}

// restore writes a backup. It returns the record of the backup.
func (s *Restorer) restore(ctx context.Context, repository, id string, version *dataset.VersionRef, w writer) (
	record Record, err error) {
	r, err := s.repositories.OpenNamed(ctx, repository)
	if err != nil {
		return record, err
	}
	w.step("reading the backup's record")
	record, err = s.readRecord(ctx, r, id, version, w.compare)
	if err == nil {
		err = w.write(ctx, r, id, s.mounts, record)
	}
	var st unix.Statfs_t
	switch noInodes := unix.Fstatfs(int(w.mount.Fd()), &st) == nil && st.Files > 0 && st.Ffree == 0; {
	case noInodes && (errors.Is(err, dataset.ErrNoSpace) || errors.Is(err, dataset.ErrInternal)):
		// restic's error can be another one, about the absent file.
		return record, dataset.Errorf(dataset.ErrNoSpace, "the filesystem of the new volume has too few "+
			"inodes for the files of backup %s (use filesystem xfs, or %s)", short(id), w.remedy(id))
	case errors.Is(err, dataset.ErrNoSpace):
		// restic's error does not say which of the two is full. Restore writes nothing to the repository.
		return record, dataset.Errorf(dataset.ErrNoSpace,
			"the new volume or the host's disk is too small for backup %s, which is of a volume of %s (%s)", short(id),
			record.Size.Readable(), w.remedy(id))
	}
	return record, named(repository, err)
}

// readRecord returns the record of a backup. It fails if the backup may lack files, or if version is not nil and the
// backup does not belong to it. Unless always is set, it does not read again what is known: the restore that follows
// fails if the backup was removed.
func (s *Restorer) readRecord(ctx context.Context, r *restic.Repository, id string, version *dataset.VersionRef,
	always bool) (Record, error) {
	read, known := s.read.readBackup, s.read.get(r, id).record
	if always {
		read, known = readBackup, nil
	}
	b, tags, err := read(ctx, r, id, otherRemedy)
	if err == nil && version != nil && (tags.Operation != version.Version || tags.Pushed != version.Name) {
		err = dataset.Errorf(dataset.ErrInvalid, "backup %s does not have version %s of %s (see drover "+
			"repository versions)", short(b.ID), shortVersion(version.Version), version.Name)
	}
	if err == nil {
		err = checkEntered(ctx, r, b, tags)
	}
	switch {
	case err != nil:
		return Record{}, err
	case known != nil:
		return *known, nil
	}
	return s.read.readRecord(ctx, r, b, tags)
}

// checkEntered fails with dataset.ErrConflict if a push made a backup, and its version has no entry. Nobody knows
// whether the push still runs: another cluster can carry it out.
func checkEntered(ctx context.Context, r *restic.Repository, b restic.Backup, tags Tags) error {
	if tags.Pushed == "" {
		return nil
	}
	isEntered, err := enteredBackups(ctx, r, []restic.Backup{b})
	if err != nil || isEntered(b) {
		return err
	}
	return dataset.Errorf(dataset.ErrConflict, "backup %s is not complete: the push that made it has not ended, or "+
		"was interrupted (choose another one: drover repository versions shows them)", short(b.ID))
}

// writer writes a backup to the root of a volume.
type writer struct {
	mount   *os.File     // of the volume
	step    func(string) // called with the name of each step
	compare bool         // read each file again, and compare it with the backup
}

// remedy says what to do if the volume is too small.
func (w writer) remedy(id string) string {
	if w.compare {
		return "verify it with a larger size: drover backup verify " + short(id) + " --size SIZE"
	}
	return "restore it with a larger size: drover backup restore " + short(id) + " NEW -o size=SIZE"
}

// write has restic write the files to the volume, which only restic sees, as the folder DataName.
func (w writer) write(ctx context.Context, r *restic.Repository, id, mounts string, record Record) error {
	w.step("restoring")
	err := mount.InNamespace(w.mount, filepath.Join(mounts, DataName), func() error {
		return r.RestoreFolder(ctx, id, DataName, mounts, w.compare)
	})
	if err != nil {
		return err
	}
	w.step("examining the files")
	got, err := tree.SurveyTree(ctx, w.mount, math.MaxInt64)
	if err != nil {
		return err
	}
	if got.Names != record.Names {
		return dataset.Errorf(dataset.ErrCorrupt, "backup %s has %d of the %d files and folders that volume %s had: "+
			"the others could not be read when it was made, or be restored (choose another backup: drover backup "+
			"ls %[4]s)", short(id), got.Names, record.Names, record.Volume)
	}
	if got.Metadata.String() != record.Metadata {
		// restic reports no attribute that the volume could not store. This says nothing about the backup, unless the
		// volume has the same filesystem as the one that was backed up, and space.
		kind, now := dataset.ErrUnsupported, unix.Statfs_t{}
		if unix.Fstatfs(int(w.mount.Fd()), &now) == nil && now.Bavail > 0 && kindOf(w.mount) == record.Filesystem {
			kind = dataset.ErrCorrupt
		}
		return dataset.Errorf(kind, "an owner, mode, time or attribute of a file of backup %s could "+
			"not be restored, and restic does not say which (use the filesystem that volume %s had, and a larger "+
			"size: -o fs=FS -o size=SIZE; restic restore and drover volume import take the files without it)",
			short(id), record.Volume)
	}
	steps.At("backup-restore.written")
	return nil
}
