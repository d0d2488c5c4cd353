package operation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/internal/steps"
	"github.com/droverhq/drover/internal/tree"
)

// Importer makes volumes of folders, backups and archives.
type Importer struct {
	*Operations
	verifying sync.Map // by repository, a chan struct{} with an element for each verification that runs
	room      *room
}

// maxVerifications is how many verifications of backups in a repository a host runs at a time. It is the default of
// drover recover --parallel, so that a rehearsal takes about as long as a recovery. They share the disk and the CPU
// with the mounted volumes, so there are not more. A repository that does not answer delays none of another one.
const maxVerifications = 2

// ImportArchive makes a volume from a tar archive.
func (i *Importer) ImportArchive(ctx context.Context, req api.Request, r io.Reader) (dataset.Dataset, error) {
	req.Kind = dataset.OpImport
	if req.ID == uuid.Nil {
		req.ID = uuid.New()
	} else if op, known := i.Runner.Lookup(ctx, req.ID); known {
		return dataset.Dataset{}, usedIDError(op.ID)
	}
	plan, err := i.Plan(ctx, req)
	if err != nil {
		return dataset.Dataset{}, err
	}
	if plan.Operation == nil {
		return *plan.Unchanged, nil
	}
	op := *plan.Operation
	var out api.Committed // read only if the job has ended without an error
	joined, err := i.Jobs.Do(ctx, "op/"+op.ID.String(), "import of volume "+op.Volume,
		func(jctx context.Context, jb *host.Job) error {
			// The archive comes with the request, so the job ends with it.
			jctx, cancel := context.WithCancel(jctx)
			defer cancel()
			defer context.AfterFunc(ctx, cancel)()
			return i.Runner.Run(jctx, jb, op, func(jctx context.Context, op *dataset.Operation) error {
				unpack := func(ctx context.Context, root *os.File, wrote func()) error {
					return unpackSent(ctx, r, root, wrote)
				}
				c, err := i.importInto(jctx, jb, op, unpack)
				out = c
				return err
			})
		})
	if joined { // the other request has another archive
		err = usedIDError(op.ID)
	}
	if err != nil {
		return dataset.Dataset{}, err
	}
	if out.Duplicate {
		return dataset.Dataset{}, dataset.Errorf(dataset.ErrExists, "volume %q was created by a concurrent request",
			op.Volume)
	}
	i.News.Changed(out.Dataset.ID)
	return *out.Dataset, nil
}

// usedIDError returns the error for a request whose ID is already the ID of another operation.
func usedIDError(id uuid.UUID) error {
	return dataset.Errorf(dataset.ErrExists, "operation %s exists with another request (choose another ID)", id)
}

// Import makes a volume from a backup or from a folder of this host. With a backup, it fails with dataset.ErrNoSpace,
// and writes nothing, if the files would leave less space in the pool than backends.Reserve and what other restores
// need. A pool without volumes is an exception: see checkRoom. If the files need more than the repository said, it
// fails with dataset.ErrNoSpace, too: see watchSpace.
func (i *Importer) Import(ctx context.Context, jb *host.Job, op *dataset.Operation) (api.Committed, error) {
	if op.Backup == "" {
		return i.ImportFolder(ctx, jb, op)
	}
	pool, err := i.prepare(ctx, op)
	if err != nil {
		return api.Committed{}, err
	}
	part, err := i.measureAndTake(ctx, jb, pool, op, func(err error) error { return err })
	if err != nil {
		return api.Committed{}, fmt.Errorf("import of volume %s: %w", op.Volume, err)
	}
	defer part.release()
	var version *dataset.VersionRef
	if refs := op.DatasetRecord.BasedOn; len(refs) > 0 {
		version = &refs[0]
	}
	return i.create(ctx, jb, op, "import", func(pool backends.Pool) error {
		return i.fill(ctx, jb, pool, op, part, func(ctx context.Context, m, _ *os.File, _ func()) error {
			return i.backups.Restore(ctx, op.Repository, op.Backup, version, m, jb.Step)
		})
	})
}

// Verify restores a backup into a dataset that control does not record, compares the files with the backup, runs the
// check program if the operation has one, and removes the dataset. If the agent is killed meanwhile, the next run of
// the operation removes the dataset, or its pool does, because the dataset has no record.
//
// At most maxVerifications of a repository run at a time. A verification fails with dataset.ErrNoSpace, and writes
// nothing, if its data would leave less space in the pool than backends.Reserve and the other restores need, even if
// the pool compresses: see checkRoom. While another verification needs space in the pool, it waits instead.
//
// It fails with dataset.ErrCorrupt or dataset.ErrNotFound only if the backup is the cause, or if the check program
// found the restored volume not usable.
func (i *Importer) Verify(ctx context.Context, jb *host.Job, op *dataset.Operation) (api.Committed, error) {
	unusable := false // whether the backup was read, and cannot be restored
	out, err := i.verify(ctx, jb, op, func(err error) error {
		unusable = unusable || err != nil
		return err
	})
	if kind := dataset.KindOf(err); !unusable && (kind == dataset.ErrCorrupt || kind == dataset.ErrNotFound) {
		err = dataset.Errorf(dataset.ErrConflict, "%w", err)
	}
	return out, err
}

// verify executes Verify. It calls noteRead with the result of each read of the backup.
func (i *Importer) verify(ctx context.Context, jb *host.Job, op *dataset.Operation, noteRead func(error) error) (
	api.Committed, error) {
	jb.Step(waitingToVerify)
	slots, _ := i.verifying.LoadOrStore(op.Repository, make(chan struct{}, maxVerifications))
	verifying := slots.(chan struct{})
	select {
	case verifying <- struct{}{}:
		defer func() { <-verifying }()
	case <-ctx.Done():
		return api.Committed{}, context.Cause(ctx)
	}
	pool, err := i.prepare(ctx, op)
	if err != nil {
		return api.Committed{}, err
	}
	part, err := i.measureAndTake(ctx, jb, pool, op, noteRead)
	if err != nil {
		return api.Committed{}, fmt.Errorf("verification of a backup of volume %s: %w", op.Volume, err)
	}
	defer part.release()
	err = i.makeTemporary(ctx, jb, op, "verify", func(pool backends.Pool) error {
		err := i.fill(ctx, jb, pool, op, part, func(ctx context.Context, m, _ *os.File, _ func()) error {
			of, taken, err := i.backups.Verify(ctx, op.Repository, op.Backup, m, jb.Step)
			op.Taken = taken
			if of != uuid.Nil && of != op.BackupOf {
				op.BackupOf = uuid.Nil // it is a backup of an earlier volume with this name
			}
			return noteRead(err)
		})
		if err != nil {
			return err
		}
		steps.At("verify.compared")
		return i.check(ctx, jb, pool, op, noteRead)
	})
	if err != nil {
		return api.Committed{}, err
	}
	op.DatasetRecord = nil
	size := int64(part.needed)
	op.Progress = dataset.Progress{Done: size, Total: size} // a rehearsal reports how much was restored
	return i.Runner.Report(ctx, op, nil)
}

// check runs the check program of a verification, if it has one. It calls noteRead with the error of a program that
// found the restored volume not usable.
func (i *Importer) check(ctx context.Context, jb *host.Job, pool backends.Pool, op *dataset.Operation,
	noteRead func(error) error) error {
	if op.Check == "" {
		return nil
	}
	jb.Step("running the check program")
	unusable, err := i.backups.RunCheck(ctx, pool, *op)
	if op.Refused = unusable; unusable {
		err = noteRead(err)
	}
	if err != nil {
		return fmt.Errorf("verification of a backup of volume %s: %w", op.Volume, err)
	}
	steps.At("verify.checked")
	return nil
}

// prepare returns the pool of an operation's new dataset. An earlier attempt may have been interrupted: prepare removes
// its files, which are not used.
func (i *Importer) prepare(ctx context.Context, op *dataset.Operation) (backends.Pool, error) {
	pool, err := i.Pools.Get(op.DatasetRecord.Pool)
	if err != nil {
		return nil, err
	}
	return pool, host.Discard(ctx, i.Host, pool, op.DatasetID)
}

// ImportFolder makes a volume from a folder of this host.
func (i *Importer) ImportFolder(ctx context.Context, jb *host.Job, op *dataset.Operation) (api.Committed, error) {
	if op.Path == "" {
		return api.Committed{}, dataset.Errorf(dataset.ErrCancelled,
			"import of volume %s was interrupted by a restart: import it again", op.Volume)
	}
	// The folder is examined and read only through this descriptor, so another user who renames a folder above it has
	// no effect.
	src, err := safefile.OpenFolder(op.Path)
	if err != nil {
		return api.Committed{}, dataset.Errorf(dataset.ErrInvalid, "import of volume %s: %w", op.Volume, err)
	}
	defer src.Close()
	if err := i.checkImportable(ctx, src); err != nil {
		return api.Committed{}, fmt.Errorf("import of volume %s: %w", op.Volume, err)
	}
	return i.importInto(ctx, jb, op, func(ctx context.Context, root *os.File, wrote func()) error {
		err := tree.Copy(ctx, src, root, func(n int64) {
			jb.SetProgress(n, 0)
			wrote()
		})
		if err != nil {
			return err
		}
		if op.Live {
			return nil
		}
		jb.Step("comparing")
		diff, err := tree.Compare(ctx, src, root)
		if err == nil && len(diff) > 0 {
			err = dataset.Errorf(dataset.ErrConflict,
				"%s changed during the copy, at %v (stop the processes that use it, or use --live)", op.Path, diff[0])
		}
		return err
	})
}

// importInto makes a volume, and calls write to write its files.
func (i *Importer) importInto(ctx context.Context, jb *host.Job, op *dataset.Operation,
	write func(ctx context.Context, root *os.File, wrote func()) error) (api.Committed, error) {
	if _, err := i.prepare(ctx, op); err != nil {
		return api.Committed{}, err
	}
	return i.create(ctx, jb, op, "import", func(pool backends.Pool) (err error) {
		return i.fill(ctx, jb, pool, op, nil, func(ctx context.Context, _, root *os.File, wrote func()) error {
			return write(ctx, root, wrote)
		})
	})
}

// fill calls write with the mount of a new dataset, which no other process can see, and with its root, and flushes the
// files. It ends before it fills the pool: see watchSpace. part is what a restore has reserved, or nil.
func (i *Importer) fill(ctx context.Context, jb *host.Job, pool backends.Pool, op *dataset.Operation, part *share,
	write func(ctx context.Context, m, root *os.File, wrote func()) error) (err error) {
	jb.Step("copying")
	m, err := mounting.OpenMount(ctx, pool, op.DatasetID)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	root, err := mount.Root(m)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	err = i.watchSpace(ctx, pool, op.DatasetID, root, part, func(ctx context.Context, wrote func()) error {
		return write(ctx, m, root, wrote)
	})
	switch {
	case err != nil && op.Kind == dataset.OpVerify:
		return fmt.Errorf("verification of a backup of volume %s: %w", op.Volume, err)
	case err != nil:
		return fmt.Errorf("import of volume %s: %w", op.Volume, err)
	case op.Kind == dataset.OpImport:
		steps.At("import.copied")
	}
	return nil
}

// unpackSent unpacks an archive that comes with a request. It calls wrote from time to time. If the archive is
// damaged or truncated, the error is dataset.ErrInvalid and not dataset.ErrCorrupt, because no data of Drover is
// damaged.
func unpackSent(ctx context.Context, r io.Reader, root *os.File, wrote func()) error {
	err := tree.ReadTar(ctx, &senderReader{r, wrote}, root)
	if errors.Is(err, dataset.ErrCorrupt) {
		err = dataset.Errorf(dataset.ErrInvalid,
			"the archive is incomplete or not a tar archive: %w (create it again, uncompressed, and send it "+
				"again)", err)
	}
	return err
}

// senderReader is a reader of a sender's stream. It returns the stream's errors with the kind dataset.ErrInvalid.
// Before each read, it calls before.
type senderReader struct {
	r      io.Reader
	before func()
}

func (s *senderReader) Read(p []byte) (int, error) {
	s.before()
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = dataset.Errorf(dataset.ErrInvalid, "the archive ended early while it was sent: %w", err)
	}
	return n, err
}
