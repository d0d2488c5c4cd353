package btrfs

import (
	"os"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
)

// minSize is the smallest size of a dataset. It leaves room for the metadata that btrfs reserves while it writes.
const minSize = 16 * dataset.MiB

// Compresses implements backends.Compressor.
func (p *Pool) Compresses() bool { return mount.Compresses(p.Shelf.Path()) }

// roomFor checks the room, as Room does, for a transfer that will write a number of bytes.
func (p *Pool) roomFor(remaining int64) error {
	return backends.CheckRoomFor(p.name, p.Shelf.Status, 0, remaining, func() error { return p.Within(fsctl.Sync) })
}

// checkSize fails with dataset.ErrUnsupported if no dataset of the pool can have this size.
func (p *Pool) checkSize(size dataset.Size) error {
	if err := p.CheckSize(size); err != nil {
		return err
	}
	return (*Backend)(nil).CheckSize("", size)
}

// commit makes all earlier changes of the pool durable.
func (p *Pool) commit(dir *os.File) error {
	return p.commits.Wait(func() error { return btrfsctl.Commit(dir) })
}
