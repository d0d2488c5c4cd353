package btrfs

import (
	"os"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/linux/mount"
)

// space checks whether a pool has room for a write.
type space struct {
	pool    string // its name, for errors
	shelf   *shelf.Shelf
	commits btrfsctl.Commits
}

// minSize is the smallest size of a dataset. It leaves room for the metadata that btrfs reserves while it writes.
const minSize = 16 * dataset.MiB

// Compresses implements backends.Compressor.
func (p *Pool) Compresses() bool { return mount.Compresses(p.shelf.Path()) }

// room fails with dataset.ErrNoSpace if the pool is so full that no new work should begin.
func (sp *space) room() error {
	st, err := sp.shelf.Space()
	if err != nil {
		return err
	}
	return backends.CheckRoom(sp.pool, st.Free, st.Size)
}

// roomFor checks the room, as room does, for a transfer in progress. written is the number of bytes that the transfer
// has written, and remaining the number that it will still write. The filesystem may not have counted the written bytes
// yet: btrfs counts them with its next commit.
func (sp *space) roomFor(written, remaining int64) error {
	commit := func() error { return sp.shelf.Within(sp.commit) }
	return backends.CheckRoomFor(sp.pool, sp.shelf.Status, written, remaining, commit)
}

// checkSize fails with dataset.ErrUnsupported if no dataset of the pool can have this size.
func (sp *space) checkSize(size dataset.Size) error {
	st, err := sp.shelf.Space()
	switch {
	case err != nil:
		return err
	case size > st.Size:
		return dataset.Errorf(dataset.ErrUnsupported, "%s is more than the total size of pool %s (%s)", size, sp.pool,
			st.Size.Human())
	}
	return (*Backend)(nil).CheckSize("", size)
}

// commit makes all earlier changes of the pool durable.
func (sp *space) commit(dir *os.File) error {
	return sp.commits.Wait(func() error { return btrfsctl.Commit(dir) })
}
