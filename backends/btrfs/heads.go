package btrfs

import (
	"context"
	"fmt"

	"github.com/droverhq/drover/backends/shelf"
)

// checkFits fails if the content of a snapshot is larger than the size of the head that is made from the snapshot.
// Without full quotas, the size of the content is not known, and checkFits accepts every snapshot.
func (p *Pool) checkFits(ctx context.Context, f *shelf.Folder, s shelf.SnapshotRecord, newHead shelf.Head) error {
	if newHead.Size == 0 || !p.quota.Full() {
		return nil
	}
	used, err := p.usedBy(ctx, f, s.Tree)
	if err == nil && used > newHead.Size {
		err = fmt.Errorf("%w: make the volume larger first", tooLargeError("it", used, newHead.Size))
	}
	return err
}

// fillHead durably fills the tree of a new head from a snapshot, and sets the limit of the tree. A power cut can undo
// the limit: see "Durability" in the package comment. The tree may have more data than its size, if the data was
// compressed at its source. Then the head is full.
func (p *Pool) fillHead(ctx context.Context, f *shelf.Folder, s shelf.SnapshotRecord, newHead shelf.Head) error {
	if err := p.trees.Copy(ctx, f, s.Tree, f, newHead.Tree, false); err != nil {
		return err
	}
	dir, err := openSubvolume(f, newHead.Tree)
	if err != nil {
		return err
	}
	defer dir.Close()
	return p.quota.Assign(dir, newHead.Size)
}
