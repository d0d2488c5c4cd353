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
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/disk"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/fsctl"
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
	every  int64        // bytes between two checkpoints, at least
	lag    int64        // and at most, where the first is not on the disk yet
	part   int64        // of a base that is shared at once
	// ahead has the kernel begin to write what was received before a checkpoint flushes it. A test
	// that cuts the power turns it off, or it would hide a flush that is missing.
	ahead bool
	// fdatasync flushes a file that is received: fdatasync(2), unless a test has it fail.
	fdatasync func(*os.File) error
}

var (
	_ backends.Former  = (*Backend)(nil)
	_ backends.Bounded = (*Backend)(nil)
	_ backends.Server  = (*Backend)(nil)
)

// New returns the backend. Commands (mkfs, once for each size; resize2fs where ext4
// can't be grown otherwise) go through runner.
func New(runner run.Runner) *Backend {
	return &Backend{
		runner: runner, step: steps.At, every: checkpointEvery, lag: checkpointLag, part: sharedPart, ahead: true,
		fdatasync: func(f *os.File) error { return unix.Fdatasync(int(f.Fd())) },
	}
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
	return mkfs.Check(cmp.Or(fs, mkfs.Ext4), roundUp(size))
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

// Open implements backends.Kind.
func (b *Backend) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	if !filepath.IsAbs(cfg.Path) || filepath.Clean(cfg.Path) != cfg.Path {
		return nil, dataset.Errorf(dataset.ErrInvalid,
			"pool %s: bad path %q: want an absolute path without . and ..", cfg.Name, cfg.Path)
	}
	p := &Pool{backend: b, name: cfg.Name, path: cfg.Path, keys: cfg.Keys}
	var err error
	if cfg.Image > 0 {
		p.image, err = b.openImage(ctx, cfg)
		p.path = cfg.Mount
	}
	if len(cfg.Devices) > 0 {
		if p.disk, err = disk.Open(ctx, b.runner, cfg, fsctl.XFS, nil); err == nil {
			cfg.ID = p.disk.ID
		}
	}
	if err == nil {
		err = p.enter(cfg)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pool %s: %w", cfg.Name, err), p.Close())
	}
	return p, nil
}

// PathOf implements backends.Former.
func (b *Backend) PathOf(_, mount string) string { return mount }

// enter makes the pool at p.path, if that is wanted, and learns what it is.
func (p *Pool) enter(cfg backends.Config) error {
	kind, err := p.suitable(cfg.Make)
	if err != nil {
		return err
	}
	if p.identity, err = identify(p.path, cfg, kind); err != nil {
		return err
	}
	root, err := p.open()
	if err != nil {
		return err
	}
	defer root.Close()
	if p.image != nil {
		if err := p.image.refillAtOpen(); err != nil {
			return err
		}
	}
	p.layout = layout.XFS{}
	if p.identity.Layout == layoutBtrfs {
		p.layout = &layout.Btrfs{}
	}
	for _, dir := range []string{layout.Incoming, layout.Datasets, layout.Copies, layout.Deleting, layout.Templates} {
		if err := root.Mkdir(dir); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if err := p.layout.Prepare(root); err != nil {
		return err
	}
	if p.direct, err = layout.DirectIO(root, layout.IdentityFile); err != nil {
		return err
	}
	p.records = layout.RecordWriter{Layout: p.layout, Direct: p.direct}
	if err := p.describe(); err != nil {
		return err
	}
	return p.settled() // what a process that was killed has left
}

// describe sets what Info returns.
func (p *Pool) describe() error {
	host := mkfs.Look()
	if err := host.Cannot(host.Mounts, "no filesystem for the images"); err != nil {
		return err
	}
	offline, err := offlineGrow(host.Mounts)
	if err != nil {
		return err
	}
	var lacks []string
	seals := crypt.Available()
	for _, err := range append(host.Missing, seals) {
		if err != nil {
			lacks = append(lacks, err.Error())
		}
	}
	note := []string{p.layout.Note()}
	if !p.direct {
		note = append(note, "without direct I/O, which this filesystem has not")
	}
	if len(offline) > 0 {
		note = append(note, "ext4 can't grow while mounted, since this process has no CAP_SYS_RESOURCE")
	}
	if p.image != nil {
		note = append(note, p.image.note...)
	}
	if p.disk != nil {
		note = append(note, p.disk.Note())
	}
	_, constant := p.layout.(*layout.Btrfs)
	can := p.backend.Best()
	can.ConstantSnapshot, can.Encryption, can.Filesystems = constant, seals == nil, host.Makes
	can.OnlineGrow, can.OfflineGrow = len(offline) < len(host.Mounts), offline
	p.info = backends.Info{
		Capabilities: can,
		Holds:        host.Mounts, Missing: lacks, Note: strings.Join(note, "; "), Path: p.path,
		DefaultSize: defaultSize,
	}
	return nil
}
