package dir

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
)

// Attach implements backends.Pool. It only returns a bind mount, because the head is a directory.
func (p *Pool) Attach(_ context.Context, id uuid.UUID, opts backends.AttachOptions) (backends.Attachment, error) {
	if err := shelf.CheckFilesystem(p.kind, dataset.Filesystem{Mount: opts.Mount}); err != nil {
		return backends.Attachment{}, err
	}
	f, err := p.Shelf.FindDataset(id)
	if err != nil {
		return backends.Attachment{}, err
	}
	defer f.Close()
	return p.AttachFolder(f, opts)
}

// AttachFolder attaches the head of a folder. With backend nfs the folder can belong to another pool of the share; see
// Visit of backends.Sharer.
func (p *Pool) AttachFolder(f *shelf.Folder, opts backends.AttachOptions) (backends.Attachment, error) {
	head, err := f.Head()
	if err != nil {
		return backends.Attachment{}, err
	}
	if st, err := f.Lstat(head.Tree); err != nil || !safefile.IsDir(st) {
		return backends.Attachment{}, dataset.Errorf(dataset.ErrCorrupt, "dataset %s: its directory %s is missing",
			f.ID, head.Tree)
	}
	return p.uses.Attach(f.ID, filepath.Join(f.Path(), head.Tree), opts.ReadOnly), nil
}

// checkIdle returns dataset.ErrInUse if a dataset is in use. operation names the refused call in the error.
func (p *Pool) checkIdle(ctx context.Context, f *shelf.Folder, operation string) error {
	if err := p.uses.CheckIdle(ctx, f.ID, f.Path()); err != nil {
		return fmt.Errorf("%w: it cannot be %s meanwhile, because a pool of backend %s copies file by file (stop "+
			"its containers, or use a pool of backend loop)", err, operation, p.kind)
	}
	return nil
}

// CheckIdle implements backends.IdleChecker.
func (p *Pool) CheckIdle(ctx context.Context, id uuid.UUID) error {
	f, err := p.Shelf.FindDataset(id)
	if err != nil {
		return err
	}
	defer f.Close()
	return p.uses.CheckIdle(ctx, id, f.Path())
}
