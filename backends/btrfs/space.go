package btrfs

import (
	"os"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/linux/mount"
)

// minSize is the smallest size of a dataset. It leaves room for the metadata that btrfs reserves while it writes.
const minSize = 16 * dataset.MiB

// Compresses implements backends.Compressor.
func (p *Pool) Compresses() bool { return mount.Compresses(p.Shelf.Path()) }

// roomFor checks the room, as Room does, for a transfer in progress. written is the number of bytes that the transfer
// has written, and remaining the number that it will still write. The filesystem may not have counted the written bytes
// yet: btrfs counts them with its next commit.
func (p *Pool) roomFor(written, remaining int64) error {
	commit := func() error { return p.Within(p.commit) }
	return backends.CheckRoomFor(p.name, p.Shelf.Status, written, remaining, commit)
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
