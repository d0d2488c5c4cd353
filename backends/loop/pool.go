package loop

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/disk"
	"github.com/droverhq/drover/backends/loop/attach"
	"github.com/droverhq/drover/backends/loop/growth"
	"github.com/droverhq/drover/backends/loop/imagefile"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/backends/loop/poolimage"
	"github.com/droverhq/drover/backends/loop/template"
	"github.com/droverhq/drover/backends/loop/transfer"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mkfs"
)

// Pool is an open pool of images. Its methods open the pool's directory, claim the dataset, and pass both to the part
// that does the work.
type Pool struct {
	policies
	backend *Backend
	name    string
	info    backends.Info
	dir     *poolDir
	image   *poolimage.Image // nil unless the pool is in an image file
	disk    *disk.Disk       // nil unless the pool has separate devices
	layout  layout.Layout
	records layout.RecordWriter

	images     *imagefile.Images
	heads      *imagefile.Heads
	sharing    *imagefile.Sharing
	containers *attach.Containers
	attacher   *attach.Attacher
	grower     *growth.Grower
	templates  *template.Store
	catalog    *catalog
	creator    *creator
	newUsage   newUsage
	remover    *remover
	snapshots  *snapshots
	copier     *copier
	receiver   *transfer.Receiver
	sender     *transfer.Sender
}

var (
	_ backends.Pool             = (*Pool)(nil)
	_ backends.Resizer          = (*Pool)(nil)
	_ backends.Copier           = (*Pool)(nil)
	_ backends.StallPredictor   = (*Pool)(nil)
	_ backends.SnapshotMeasurer = (*Pool)(nil)

	_ backends.Formatter = (*Pool)(nil)
	_ backends.Warner    = (*Pool)(nil)

	_ backends.PolicyKeeper = (*Pool)(nil)
)

// ID implements backends.Pool.
func (p *Pool) ID() uuid.UUID { return p.dir.identity.ID }

// Info implements backends.Pool.
func (p *Pool) Info() backends.Info { return p.info }

// step calls the hook of tests between two actions.
func (p *Pool) step(name string) { p.backend.step("loop." + name) }

// Generation implements backends.Pool.
func (p *Pool) Generation() (uint64, error) {
	return p.dir.generation()
}

// Raise implements backends.Pool.
func (p *Pool) Raise(generation uint64) error {
	return p.dir.changeIdentity(func(id *identity) { id.Generation = generation })
}

// policies implements backends.PolicyKeeper for a pool.
type policies struct{ dir *poolDir }

// Overcommit implements backends.PolicyKeeper.
func (p policies) Overcommit() (float64, error) {
	root, err := p.dir.open()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	id, err := p.dir.read(root)
	return id.Overcommit, err
}

// KeepOvercommit implements backends.PolicyKeeper.
func (p policies) KeepOvercommit(ratio float64) error {
	return p.dir.changeIdentity(func(id *identity) { id.Overcommit = ratio })
}

// Status implements backends.Pool.
func (p *Pool) Status(context.Context) dataset.PoolStatus {
	st := dataset.PoolStatus{ID: p.dir.identity.ID}
	root, err := p.dir.open()
	if err != nil {
		st.Reason = err.Error()
		return st
	}
	defer root.Close()
	free, size, err := layout.Space(root)
	if err != nil {
		st.Reason = err.Error()
		return st
	}
	st.Online, st.Free, st.Size = true, free, size
	if deleting, err := root.Entries(layout.Deleting); err == nil {
		st.Leftovers = len(deleting)
	}
	if err := p.dir.room(root); err != nil {
		st.Reason = err.Error()
	}
	return st
}

// Trim implements backends.Trimmer.
func (p *Pool) Trim(context.Context) (dataset.Size, error) {
	root, err := p.dir.open()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	n, err := fsctl.Trim(root.File)
	return dataset.Size(n), err
}

// Close implements backends.Pool. It unmounts a pool in an image or on its own devices. If datasets of the pool are
// in use, it stays mounted for the next Open.
func (p *Pool) Close() error {
	var err error
	if p.containers != nil {
		err = p.containers.DropAllUnused()
	}
	if p.image == nil {
		return errors.Join(err, p.disk.Close())
	}
	return errors.Join(err, p.image.Close())
}

// Filesystem implements backends.Formatter.
func (p *Pool) Filesystem(size dataset.Size) string {
	fs, _ := mkfs.Choose("", size, p.info.Capabilities.Filesystems) // Create returns the error
	return fs
}

// Warnings implements backends.Warner.
func (p *Pool) Warnings() []string {
	if p.image == nil {
		return nil
	}
	return p.image.Warnings()
}
