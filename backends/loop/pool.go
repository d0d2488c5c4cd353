package loop

import (
	"context"
	"errors"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/disk"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/google/uuid"
)

// Pool is an open pool of images.
type Pool struct {
	backend *Backend
	name    string
	info    backends.Info
	*shelf.Shelf
	image   *poolImage // nil unless the pool is in an image file
	disk    *disk.Disk // nil unless the pool has separate devices
	layout  layout
	records recordWriter

	keys      backends.Keys          // nil if no keys are available
	mountPath func(uuid.UUID) string // the path on which the agent mounts a dataset
	direct    bool                   // devices use direct I/O

	templates *templates
	newUsage  newUsage
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

// Info implements backends.Pool.
func (p *Pool) Info() backends.Info { return p.info }

// step calls the hook of tests between two actions.
func (p *Pool) step(name string) { p.backend.step("loop." + name) }

// Status implements backends.Pool.
func (p *Pool) Status(context.Context) dataset.PoolStatus {
	st := p.Shelf.Status()
	if st.Online {
		if err := p.room(); err != nil {
			st.Reason = err.Error()
		}
	}
	return st
}

// Trim implements backends.Trimmer.
func (p *Pool) Trim(context.Context) (dataset.Size, error) { return p.Shelf.Trim() }

// Close implements backends.Pool. It unmounts a pool in an image or on its own devices. If datasets of the pool are
// in use, it stays mounted for the next Open.
func (p *Pool) Close() error {
	err := p.dropAllUnused()
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
