package dir

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
)

// Attach implements backends.Pool: the head is there already.
func (p *Pool) Attach(_ context.Context, id uuid.UUID, opts backends.AttachOptions) (backends.Attachment, error) {
	if len(opts.Mount) > 0 {
		return backends.Attachment{}, dataset.Errorf(dataset.ErrUnsupported,
			"a pool of backend %s has no mount options (asked for %s)", p.kind, dataset.Have(opts.Mount))
	}
	f, err := p.shelf.Find(id)
	if err != nil {
		return backends.Attachment{}, err
	}
	defer f.Close()
	return p.AttachIn(p.shelf, f, opts)
}

// AttachIn attaches the head of a folder of a shelf, which another pool's may be; see
// backends.Pool.
func (p *Pool) AttachIn(s *shelf.Shelf, f *shelf.Folder, opts backends.AttachOptions) (backends.Attachment, error) {
	head, err := f.Head()
	if err != nil {
		return backends.Attachment{}, err
	}
	if info, err := f.Lstat(head.Tree); err != nil || !info.IsDir() {
		return backends.Attachment{}, dataset.Errorf(dataset.ErrCorrupt, "dataset %s: its directory %s is gone",
			f.ID, head.Tree)
	}
	return p.uses.Bind(s, f, head.Tree, opts.ReadOnly), nil
}

// idle fails with dataset.ErrInUse while a dataset is in use, saying what cannot be done meanwhile.
func (p *Pool) idle(ctx context.Context, f *shelf.Folder, what string) error {
	if err := p.uses.None(ctx, f.ID, p.shelf.PathOf(f)); err != nil {
		return fmt.Errorf("%w: it cannot be %s meanwhile, as a pool of backend %s copies file by file (stop "+
			"its containers, or use a pool of backend loop)", err, what, p.kind)
	}
	return nil
}

// Idle implements backends.IdleChecker.
func (p *Pool) Idle(ctx context.Context, id uuid.UUID) error {
	f, err := p.shelf.Find(id)
	if err != nil {
		return err
	}
	defer f.Close()
	return p.uses.None(ctx, id, p.shelf.PathOf(f))
}
