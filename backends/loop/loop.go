// Package loop keeps each dataset as an image file that contains a filesystem and is mounted through a loop device. So
// the size of a dataset is a hard limit, df(1) reports the dataset's size and usage, and snapshots and clones share
// blocks.
//
// The pool's filesystem must be able to share blocks between files:
//
//   - On XFS, images are plain files and a snapshot is a FICLONE. While no loop device has the file of a head, a
//     snapshot may be a second name of that file, until the head is written to (sharing.go).
//   - On btrfs, each image is a NOCOW file in its own subvolume, and a snapshot is a snapshot of the subvolume. It
//     takes the same time however fragmented the image is, but writes are slower.
//   - If the host has neither, the pool is an XFS in one preallocated image file (open.go).
//
// # Files of a pool
//
// A pool is a directory in the layout of package shelf, and a folder templates with formatted images (<key>.img), whose
// blocks new datasets share. An incoming dataset without a head is being made. The folder of a dataset contains,
// besides its record:
//
//	head.img      head/image      the image that is mounted (XFS, btrfs)
//	<snapshot>.img  <snapshot>/image
//	<snapshot>.json               the snapshot's record
//	part.img      part/image      in a copy: the received part of a snapshot
//	part.json                     how much of the snapshot was received
//	next…, tmp-…                  unfinished; worthless after a crash
//
// A copy has no head, or one that Promote or Demote left. A restore gives the new head the name of the snapshot that
// will keep the old head, and then exchanges the names of the two images. The image of an encrypted dataset is
// described in attacher.go.
//
// # Copies
//
// The stream of a snapshot is written to part.img, over a clone of its base. On XFS the time for a clone grows with the
// number of extents, so there the clone is made while the stream arrives (basesharing.go). Two checkpoints are
// at least 4 MiB of the stream apart. A checkpoint flushes the image first. It then records in part.json the position
// in the stream and the state of the stream's checksum. So all bytes before the position in part.json are on the disk.
// When the stream resumes, later bytes are written again, to the same places.
//
// A copy has a head if Promote made one from a snapshot, or if an interrupted Demote left one. Such a head equals a
// snapshot. If its bytes differ from those of all snapshots, the head is not removed, and the conflict is reported.
//
// # Durability
//
// Create, Clone, Snapshot and Delete flush once, Restore and Resize a few times.
//
// On XFS a flush is an fsync of the dataset's directory. The fsync forces the log up to the last transaction that
// changed the directory, which renamed the directory or its last item. All earlier transactions are forced with it:
// those that made directories and shared blocks. (An fsync of the parent directory would also wait for concurrent
// changes of all other datasets.) No data of other files has to be flushed: images get their data through direct I/O of
// the loop device, or share blocks that are on the disk already, and records are written with direct I/O. The disk's
// cache is flushed as part of writing the log.
//
// On btrfs a flush is the commit of the running transaction. All callers that wait share one commit.
//
// An interrupted operation is recognized by names: an item that is not complete has a name such as next or tmp-….
//
// # Files of this package
//
//	attacher                       loop devices, LUKS containers, use of a head
//	grower                         growing images with their devices and filesystems
//	templates                      formatted images for new datasets
//	open, imageblocks              opening a pool, also one in an image file
//	images, heads, sharing, tags   reading, replacing and sharing image files
//	layout, btrfslayout            the two ways to store them
//	create, delete, snapshot       the operations on datasets and snapshots
//	copy, send, receive            copies, and the streams of snapshots
//	catalog                        List, Stat and Used
//
// Records are written with direct I/O (record.go), because package shelf would flush them.
//
// A [Pool] opens the folder of the dataset that it works on, which claims the dataset (package shelf). The claim only
// excludes Reap. The caller of backends.Pool, which is the agent, prevents other concurrent changes of a dataset.
// Everything about datasets is read from the folder. Two things are in memory, each protected by a mutex: the used
// bytes of new datasets until they are committed (newUsage), and the blocks that the image of a pool has lost. A mutex
// is held while a template is made.
package loop

import (
	"cmp"
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/steps"
)

// Name is the backend's name in drover.yaml and profiles.yaml.
const Name = "loop"

// Backend is the backend loop. It is safe for concurrent use. Code outside of this package needs only New: it uses the
// interfaces of package backends, and a record names the backend by the text "loop".
type Backend struct {
	runner run.Runner
	step   func(string) // called between two actions, for tests
	tuning *tuning
}

var (
	_ backends.BlockDeviceKind  = (*Backend)(nil)
	_ backends.BoundedKind      = (*Backend)(nil)
	_ backends.ExistingPoolKind = (*Backend)(nil)
)

// New returns the backend. It starts commands through runner: mkfs for each new template and encrypted dataset,
// cryptsetup, mkfs.xfs for pools in an image or on devices, and resize2fs where ext4 cannot be grown otherwise.
func New(runner run.Runner) *Backend {
	return &Backend{runner: runner, step: steps.At, tuning: defaultTuning()}
}

// Name implements backends.Kind.
func (b *Backend) Name() string { return Name }

// MaxCapabilities implements backends.BoundedKind.
func (b *Backend) MaxCapabilities() dataset.Capabilities {
	return dataset.Capabilities{
		EnforcesSize: true, InstantSnapshot: true, ConstantSnapshot: true, CloneIndependent: true, OnlineGrow: true,
		OwnFilesystem: true, OwnDevice: true, Delta: true, Filesystems: []string{mkfs.XFS, mkfs.Ext4}, Encryption: true,
	}
}

// CheckSize implements backends.BoundedKind.
func (b *Backend) CheckSize(fs string, size dataset.Size) error {
	return mkfs.Request{Chosen: fs, Filesystem: cmp.Or(fs, mkfs.Ext4), Size: size}.Check()
}

// Available implements backends.Kind. The host needs loop devices and a filesystem for the images.
func (b *Backend) Available(ctx context.Context) error {
	if err := b.CheckOpen(ctx); err != nil {
		return err
	}
	host := mkfs.DetectHost()
	return host.CheckAny(host.Makes, "backend loop: no filesystem for the images")
}

// CheckOpen implements backends.ExistingPoolKind. Existing pools need loop devices. Only a new image needs mkfs.
func (b *Backend) CheckOpen(context.Context) error {
	f, err := os.OpenFile("/dev/loop-control", os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return dataset.Errorf(dataset.ErrUnsupported,
			`backend loop: loop devices are not available here (run as root, and "modprobe loop"): %w`, err)
	}
	return f.Close()
}
