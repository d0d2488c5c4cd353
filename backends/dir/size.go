package dir

import (
	"context"
	"fmt"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/tree"
)

// checkSize returns dataset.ErrUnsupported if no dataset of this pool can have the size.
func (p *Pool) checkSize(size dataset.Size) error {
	if err := p.CheckSize(size); err != nil {
		return err
	}
	return Backend{}.CheckSize("", size)
}

func tooLargeError(what string, used, size dataset.Size) error {
	return dataset.Errorf(dataset.ErrUnsupported, "%s takes %s, which is more than %s", what, used.Human(), size)
}

// Used implements backends.Pool. It reads the usage from the quota. Without a quota it walks the tree.
func (p *Pool) Used(ctx context.Context, id uuid.UUID) (dataset.Size, error) {
	f, err := p.Shelf.FindDataset(id)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	h, err := f.Head()
	if err != nil {
		return 0, err
	}
	dir, err := openTree(f, h.Tree)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	if p.projects.advice == "" && h.Project != 0 && projectOf(dir) == h.Project {
		q, err := fsctl.ProjectQuota(dir, h.Project)
		return dataset.Size(q.Used), err
	}
	size, err := tree.Usage(ctx, dir)
	return dataset.Size(size.Bytes), err
}

// Resize implements backends.Resizer. A dataset can grow and shrink, but not below its usage. Size 0 removes the limit.
func (p *sizedPool) Resize(_ context.Context, id uuid.UUID, size dataset.Size, _ *os.File) (err error) {
	defer backends.Wrap(&err, "resize dataset %s to %s", id, size)
	f, err := p.FindDataset(id)
	if err != nil {
		return err
	}
	defer f.Close()
	h, err := f.Head()
	if err != nil {
		return err
	}
	dir, err := openTree(f, h.Tree)
	if err != nil {
		return err
	}
	defer dir.Close()
	if h.Project == 0 || projectOf(dir) != h.Project {
		return dataset.Errorf(dataset.ErrUnsupported,
			"its files are not in a project, because it was created before its filesystem had project quotas: "+
				"clone it, or restore a snapshot of it, to get one that can have a size")
	}
	if size != 0 {
		if err := p.checkSize(size); err != nil {
			return err
		}
	}
	if size != 0 && (h.Size == 0 || size < h.Size) {
		q, err := fsctl.ProjectQuota(dir, h.Project)
		if err != nil {
			return err
		}
		if used := dataset.Size(q.Used); used > size {
			return fmt.Errorf("%w (delete some of it first)", tooLargeError("it", used, size))
		}
	}
	h.Size = size
	if err := f.SetHead(h); err != nil {
		return err
	}
	p.step("dir.resize.recorded")
	// If a crash undoes this, opening the pool sets the limit again.
	return fsctl.LimitProject(dir, h.Project, uint64(size))
}
