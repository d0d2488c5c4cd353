// Package loop keeps each dataset as an image file with a filesystem of its own, which
// is mounted through a loop device: a hard size, a true df, snapshots and clones that
// share blocks.
//
// The pool lies on a filesystem that can share blocks between files. On XFS the images
// are plain files and a snapshot is a FICLONE; of a head that nobody has open it may be a
// second name of the same file (share.go), until the head is written to. On btrfs each image is a NOCOW file in a
// subvolume of its own and a snapshot is one of the subvolume: the same time however
// fragmented it is, but slower writes. Where the host has neither, the pool is an XFS in
// one preallocated image file.
//
// # What lies in a pool
//
//	pool.json                     which pool this is
//	templates/<key>.img           formatted images; a create shares one's blocks
//	incoming/<dataset>/           not acknowledged; without a head: being made
//	datasets/<dataset>/           ready
//	copies/<dataset>/             a copy: without a head, or with one that was promoted
//	deleting/<dataset>[.<n>]/     on its way out
//
// and in a dataset's directory
//
//	record.json                   the dataset's record
//	head.img      head/image      what is mounted (XFS, btrfs)
//	<snapshot>.img  <snapshot>/image
//	<snapshot>.json               the snapshot's record; until a restore has ended what
//	                              is to be its head bears the name of what it will keep
//	part.img      part/image      in a copy: a snapshot of which not all has come
//	part.json                     how much has
//	next…, tmp-…                  worthless after a crash
//
// What lies in the image of an encrypted dataset stands in encrypt.go.
//
// # Copies
//
// What has come of a snapshot is written to part.img, over a clone of its base: on XFS, where
// that costs what its extents do, it is made while the stream comes (beneath.go). Each 4 MiB of
// the stream the image is flushed, and then the place in the stream, with the state of
// its checksum, recorded: what part.json says is on the disk, is. What comes after it is
// written once more when the stream goes on, the same bytes to the same places.
//
// A head in a copy was made by Promote from one of the snapshots, or is what Demote has
// left, and always equals one: any other is kept, and said to be in the way.
//
// # Durability
//
// Create, Clone, Snapshot and Delete flush once, Restore and Resize a few times. On XFS
// a flush is an fsync of the dataset's directory: it forces the log up to the last
// transaction that the directory took part in, which is its renaming or that of its
// last item, and with it every earlier one: directories made, blocks shared. (An fsync
// of the directory that holds it would wait for all others' work in there, too.) Images
// get their data through direct I/O of the loop device or from what is on the disk
// already, and records are written with direct I/O before, so no other file's data has
// to be flushed; the disk's own cache is, as part of writing the log. On btrfs it is the
// commit of the running transaction, one for all that wait for it. No operation leaves
// a state in between: what is not whole lies under a name that says so.
package loop

import (
	"cmp"
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop/imagefile"
	"github.com/droverhq/drover/backends/loop/transfer"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/steps"
)

// Name is the backend's name in drover.yaml and profiles.yaml.
const Name = "loop"

// Backend is the kind of storage that this package is. It is safe for concurrent use.
type Backend struct {
	runner run.Runner
	step   func(string) // between two acts: for tests
	tuning *transfer.Tuning
}

var (
	_ backends.Former  = (*Backend)(nil)
	_ backends.Bounded = (*Backend)(nil)
	_ backends.Server  = (*Backend)(nil)
)

// New returns the backend. Commands (mkfs, once for each size; resize2fs where ext4
// can't be grown otherwise) go through runner.
func New(runner run.Runner) *Backend {
	return &Backend{runner: runner, step: steps.At, tuning: transfer.DefaultTuning()}
}

// Name implements backends.Kind.
func (b *Backend) Name() string { return Name }

// Best implements backends.Bounded.
func (b *Backend) Best() dataset.Capabilities {
	return dataset.Capabilities{
		EnforcesSize: true, InstantSnapshot: true, ConstantSnapshot: true, CloneIndependent: true, OnlineGrow: true,
		OwnFilesystem: true, OwnDevice: true, Delta: true, Filesystems: []string{mkfs.XFS, mkfs.Ext4}, Encryption: true,
	}
}

// Takes implements backends.Bounded.
func (b *Backend) Takes(fs string, size dataset.Size) error {
	return mkfs.Check(cmp.Or(fs, mkfs.Ext4), imagefile.RoundUp(size))
}

// Available implements backends.Kind: loop devices, and a filesystem to put on them.
func (b *Backend) Available(ctx context.Context) error {
	if err := b.Serves(ctx); err != nil {
		return err
	}
	host := mkfs.Look()
	return host.Cannot(host.Makes, "backend loop: no filesystem for the images")
}

// Serves implements backends.Server: loop devices. Only a new image needs mkfs.
func (b *Backend) Serves(context.Context) error {
	f, err := os.OpenFile("/dev/loop-control", os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return dataset.Errorf(dataset.ErrUnsupported,
			"backend loop: no loop devices here (run as root, and \"modprobe loop\"): %w", err)
	}
	return f.Close()
}
