package zfs

import (
	"context"
	"errors"
	"fmt"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

var _ backends.Clearer = (*Pool)(nil)

// Clear implements backends.Clearer.
func (p *Pool) Clear(ctx context.Context) (left string, err error) {
	if p.vdevs != nil {
		name := zpoolName(p.vdevs.id)
		return fmt.Sprintf("zpool %s stays, imported and with an empty pool (drover pool adopt takes it "+
			"again by one of its devices; for anything else: zpool destroy %s, then zpool labelclear -f "+
			"each of them)", name, name), p.Close()
	}
	entries, err := p.List(ctx)
	if err != nil {
		return "", err
	}
	if len(entries) > 0 {
		return "", dataset.Errorf(dataset.ErrConflict, "pool %s holds %s: it is not removed", p.name, entries[0].Path)
	}
	if err := p.unstageAll(); err != nil {
		return "", err
	}
	if err := p.Raze(ctx); err != nil {
		return "", err
	}
	return "", p.shelf.Clear()
}

// Raze implements backends.StorageRemover.
func (p *Pool) Raze(ctx context.Context) error {
	for _, name := range []string{p.ghosts(), p.top()} {
		if err := p.tool.zfs(ctx, "destroy", name); err != nil && !errors.Is(err, errAbsent) {
			return err
		}
	}
	return nil
}
