package loop

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/disk"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mkfs"
)

// Pool is an open pool of images. Its methods open the pool's directory, claim the dataset, and pass both to the part
// that does the work.
type Pool struct {
	backend *Backend
	name    string
	info    backends.Info
	shelf   *shelf.Shelf
	image   *poolImage // nil unless the pool is in an image file
	disk    *disk.Disk // nil unless the pool has separate devices
	layout  layout
	records recordWriter

	images     *images
	containers *containers
	attacher   *attacher
	grower     *grower
	templates  *templates
	creator    *creator
	newUsage   newUsage
	remover    *remover
	snapshots  *snapshots
	copier     *copier
	receiver   *receiver
	sender     *sender
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
func (p *Pool) ID() uuid.UUID { return p.shelf.ID() }

// Info implements backends.Pool.
func (p *Pool) Info() backends.Info { return p.info }

// step calls the hook of tests between two actions.
func (p *Pool) step(name string) { p.backend.step("loop." + name) }

// Generation implements backends.Pool.
func (p *Pool) Generation() (uint64, error) { return p.shelf.Generation() }

// Raise implements backends.Pool.
func (p *Pool) Raise(generation uint64) error { return p.shelf.Raise(generation) }

// Overcommit implements backends.PolicyKeeper.
func (p *Pool) Overcommit() (float64, error) { return p.shelf.Overcommit() }

// KeepOvercommit implements backends.PolicyKeeper.
func (p *Pool) KeepOvercommit(ratio float64) error { return p.shelf.KeepOvercommit(ratio) }

// Status implements backends.Pool.
func (p *Pool) Status(context.Context) dataset.PoolStatus {
	st := p.shelf.Status()
	if st.Online {
		if err := p.checkRoom(st); err != nil {
			st.Reason = err.Error()
		}
	}
	return st
}

// Trim implements backends.Trimmer.
func (p *Pool) Trim(context.Context) (dataset.Size, error) { return p.shelf.Trim() }

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
