package btrfs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/bindmount"
	"github.com/droverhq/drover/backends/disk"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
)

// Pool is an open pool. A pool whose quotas are on is opened as a sizedPool.
type Pool struct {
	name string
	*shelf.Shelf
	disk     *disk.Disk // nil unless the pool has separate devices
	quota    *quota
	counters *counters
	uses     bindmount.Tracker
	step     func(string)

	trees *subvolumes
}

// sizedPool is an open pool whose datasets can have a size, because its quotas are on. It adds the methods of
// backends.Resizer to Pool.
type sizedPool struct{ *Pool }

// openOrMake opens the pool at its path, or makes it, and prepares it for use.
func (p *Pool) openOrMake(cfg backends.Config, c clock.Clock) (err error) {
	if cfg.Make {
		if err := checkPath(cfg.Path); err != nil {
			return err
		}
		if p.disk != nil {
			if err := enableQuotas(cfg.Path); err != nil {
				return err
			}
		}
	}
	if p.Shelf, err = shelf.Open(cfg, Name); err != nil {
		return err
	}
	p.uses.MountPath = cfg.MountPath
	if err := checkFilesystem(p.Shelf.Path()); err != nil {
		return err
	}
	_ = p.Shelf.KeepCopies() // this fails in a full pool, which must still open; it then refuses copies
	err = p.Shelf.Within(func(dir *os.File) (err error) {
		p.quota, err = newQuota(dir, p.Shelf.Path(), c)
		return err
	})
	if err != nil {
		return err
	}
	p.counters = &counters{Enabled: p.quota.Enabled(), Enter: p.Enter}
	p.trees = &subvolumes{Counters: p.counters, Step: p.step}
	p.Shelf.Destroy, p.Shelf.CheckUnused = p.trees.Destroy, p.checkUnused
	p.Shelf.BackendNames = []string{notesDir}
	if !p.quota.Enabled() {
		return nil
	}
	return p.enforceAll()
}

// Info implements backends.Pool.
func (p *Pool) Info() backends.Info {
	caps, sized := (*Backend)(nil).MaxCapabilities(), p.quota.Enabled()
	caps.EnforcesSize, caps.OnlineGrow, caps.Shrink = sized, sized, sized
	caps.CountsWritten, caps.KnowsUsed = p.quota.mode == btrfsctl.QuotaSimple, p.quota.Full()
	return backends.Info{
		Capabilities: caps,
		Note: "subvolumes: constant-time snapshots and clones; df in a volume shows the whole pool; " +
			p.quota.Note() + p.devices(),
		Path: p.Shelf.Path(), Missing: p.quota.Missing(), UsedStartsNoProgram: true,
	}
}

// devices describes the devices of the pool, if the pool has separate devices.
func (p *Pool) devices() string {
	if p.disk == nil {
		return ""
	}
	note := "; " + p.disk.Note()
	if len(p.disk.Devices) > 1 {
		note += fmt.Sprintf(": data %s, metadata %s", btrfsctl.Profile(p.disk.ID, "data"),
			btrfsctl.Profile(p.disk.ID, "metadata"))
	}
	return note
}

// Status implements backends.Pool.
func (p *Pool) Status(context.Context) dataset.PoolStatus {
	st := p.Shelf.Status()
	if !st.Online {
		return st
	}
	p.counters.Collect()
	err := backends.CheckRoom(p.name, st.Free, st.Size)
	if err == nil {
		err = p.Shelf.Within(p.quota.Check)
	}
	if err != nil {
		st.Reason = err.Error()
	}
	return st
}

// Trim implements backends.Trimmer.
func (p *Pool) Trim(context.Context) (dataset.Size, error) { return p.Shelf.Trim() }

// Close implements backends.Pool. It unmounts a pool on separate devices, unless datasets of the pool are in use.
func (p *Pool) Close() error { return p.disk.Close() }

// RemoveStorage implements backends.StorageRemover. It removes the counters of destroyed subvolumes. The time for this
// is limited: see counters.Drain.
func (p *Pool) RemoveStorage(ctx context.Context) error { return p.counters.Drain(ctx) }

// Clear implements backends.Clearer.
func (p *Pool) Clear(ctx context.Context) (remains string, err error) {
	if err := p.Shelf.CheckEmpty(); err != nil {
		return "", err
	}
	if err := p.RemoveStorage(ctx); err != nil {
		return "", err
	}
	if p.disk != nil {
		return p.disk.Remains(Name), p.Close()
	}
	return "", p.Shelf.Clear()
}

// Commit implements backends.Pool.
func (p *Pool) Commit(_ context.Context, id uuid.UUID) error {
	return p.Shelf.CommitAny(id, p.commitCopy)
}

// List implements backends.Pool.
func (p *Pool) List(context.Context) ([]backends.Entry, error) {
	return p.Shelf.List(describe(p.quota))
}

// Stat implements backends.Pool.
func (p *Pool) Stat(_ context.Context, id uuid.UUID) (backends.Entry, error) {
	f, err := p.Shelf.FindDatasetOrCopy(id)
	if err != nil {
		return backends.Entry{}, err
	}
	defer f.Close()
	return p.Shelf.Describe(f, describe(p.quota)), nil
}

// Attach implements backends.Pool. The head needs no preparation.
func (p *Pool) Attach(_ context.Context, id uuid.UUID, opts backends.AttachOptions) (backends.Attachment, error) {
	if err := shelf.CheckFilesystem(Name, dataset.Filesystem{Mount: opts.Mount}); err != nil {
		return backends.Attachment{}, err
	}
	f, err := p.Shelf.FindDataset(id)
	if err != nil {
		return backends.Attachment{}, err
	}
	defer f.Close()
	head, err := f.Head()
	if err != nil {
		return backends.Attachment{}, err
	}
	tree, err := openSubvolume(f, head.Tree)
	if err != nil {
		return backends.Attachment{}, err
	}
	return p.uses.Attach(f.ID, filepath.Join(f.Path(), head.Tree), opts.ReadOnly), tree.Close()
}

// CheckIdle implements backends.IdleChecker.
func (p *Pool) CheckIdle(ctx context.Context, id uuid.UUID) error {
	f, err := p.Shelf.FindDataset(id)
	if err != nil {
		return err
	}
	defer f.Close()
	return p.uses.CheckIdle(ctx, id, f.Path())
}

// checkUnused fails if a dataset is in use, or if its folder has names that Drover did not make. Package shelf calls
// it.
func (p *Pool) checkUnused(ctx context.Context, f *shelf.Folder) error {
	names, err := f.ForeignNames()
	if err != nil {
		return err
	}
	if len(names) > 0 {
		return foreignError(f, names)
	}
	return p.uses.CheckRemovable(ctx, f.ID, f.Path(), f.State)
}

// Reap implements backends.Pool.
func (p *Pool) Reap(ctx context.Context, drop func(uuid.UUID) bool) (int, error) {
	defer p.counters.Collect()
	return p.ReapTrees(ctx, drop)
}
