package dir

import (
	"context"

	"github.com/droverhq/drover/backends/shelf"
)

// tidy removes the remains of a crash in a folder.
func (p *Pool) tidy(ctx context.Context, f *shelf.Folder) (int, error) {
	doomed, err := f.Leftovers()
	if err != nil {
		return 0, err
	}
	return len(doomed), p.trees.removeAll(ctx, f, doomed...)
}
