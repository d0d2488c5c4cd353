package loop

import (
	"context"
	"errors"

	"github.com/droverhq/drover/backends"
)

var _ backends.Clearer = (*Pool)(nil)

// Clear implements backends.Clearer. It removes no images except that of the pool and the templates, and no directories
// except empty ones.
func (p *Pool) Clear(context.Context) (remains string, err error) {
	if err := p.Shelf.CheckEmpty(); err != nil {
		return "", err
	}
	if err := p.dropAllUnused(); err != nil {
		return "", err
	}
	if p.image != nil {
		return "", p.image.Clear(p.step)
	}
	root, err := p.Shelf.Enter()
	if err != nil {
		return "", err
	}
	if err := errors.Join(p.templates.Clear(root), root.Close()); err != nil {
		return "", err
	}
	p.step("clear.emptied")
	if p.disk != nil { // the marker stays on the disk, because it contains the generation that control has recorded
		return p.disk.Remains(Name), p.Close()
	}
	return "", p.Shelf.Clear()
}
