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
	name     string
	shelf    *shelf.Shelf
	disk     *disk.Disk // nil unless the pool has separate devices
	quota    *quota
	counters *counters
	uses     bindmount.Tracker
	step     func(string)

	trees     *subvolumes
	space     *space
	sizes     *sizes
	creator   *creator
	snapshots *snapshots
	sender    *sender
	receiver  *receiver
	copier    *copier
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
	if p.shelf, err = shelf.Open(cfg, Name); err != nil {
		return err
	}
	p.uses.MountPath = cfg.MountPath
	if err := checkFilesystem(p.shelf.Path()); err != nil {
		return err
	}
	_ = p.shelf.KeepCopies() // this fails in a full pool, which must still open; it then refuses copies
	err = p.shelf.Within(func(dir *os.File) (err error) {
		p.quota, err = newQuota(dir, p.shelf.Path(), c)
		return err
	})
	if err != nil {
		return err
	}
	p.assemble()
	p.shelf.Destroy, p.shelf.CheckUnused = p.trees.Destroy, p.checkUnused
	p.shelf.BackendNames = []string{notesDir}
	if !p.quota.Enabled() {
		return nil
	}
	return p.sizes.enforceAll()
}

// assemble makes the parts of an open pool.
func (p *Pool) assemble() {
	p.counters = &counters{Enabled: p.quota.Enabled(), Enter: p.shelf.Enter}
	p.trees = &subvolumes{Counters: p.counters, Step: p.step}
	p.space = &space{pool: p.name, shelf: p.shelf}
	p.sizes = &sizes{shelf: p.shelf, quota: p.quota, space: p.space, step: p.step}
	p.creator = &creator{
		pool: p.name, shelf: p.shelf, quota: p.quota, sizes: p.sizes, space: p.space, trees: p.trees, step: p.step,
	}
	newHeads, pts := &heads{quota: p.quota, sizes: p.sizes, trees: p.trees}, &points{trees: p.trees}
	p.snapshots = &snapshots{uses: &p.uses, space: p.space, heads: newHeads, trees: p.trees, step: p.step}
	p.sender = &sender{shelf: p.shelf, points: pts}
	p.copier = &copier{shelf: p.shelf, uses: &p.uses, heads: newHeads, points: pts, trees: p.trees, step: p.step}
	p.receiver = &receiver{
		shelf: p.shelf, quota: p.quota, space: p.space, trees: p.trees, copier: p.copier, step: p.step,
	}
}

// ID implements backends.Pool.
func (p *Pool) ID() uuid.UUID { return p.shelf.ID() }

// Info implements backends.Pool.
func (p *Pool) Info() backends.Info {
	caps, sized := (*Backend)(nil).MaxCapabilities(), p.quota.Enabled()
	caps.EnforcesSize, caps.OnlineGrow, caps.Shrink = sized, sized, sized
	caps.CountsWritten, caps.KnowsUsed = p.quota.Simple(), p.quota.Full()
	return backends.Info{
		Capabilities: caps,
		Note: "subvolumes: constant-time snapshots and clones; df in a volume shows the whole pool; " +
			p.quota.Note() + p.devices(),
		Path: p.shelf.Path(), Missing: p.quota.Missing(), UsedStartsNoProgram: true,
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
	st := p.shelf.Status()
	if !st.Online {
		return st
	}
	p.counters.Collect()
	err := backends.CheckRoom(p.name, st.Free, st.Size)
	if err == nil {
		err = p.shelf.Within(p.quota.Check)
	}
	if err != nil {
		st.Reason = err.Error()
	}
	return st
}

// Generation implements backends.Pool.
func (p *Pool) Generation() (uint64, error) { return p.shelf.Generation() }

// Raise implements backends.Pool.
func (p *Pool) Raise(generation uint64) error { return p.shelf.Raise(generation) }

// Overcommit implements backends.PolicyKeeper.
func (p *Pool) Overcommit() (float64, error) { return p.shelf.Overcommit() }

// KeepOvercommit implements backends.PolicyKeeper.
func (p *Pool) KeepOvercommit(ratio float64) error { return p.shelf.KeepOvercommit(ratio) }

// Trim implements backends.Trimmer.
func (p *Pool) Trim(context.Context) (dataset.Size, error) { return p.shelf.Trim() }

// Close implements backends.Pool. It unmounts a pool on separate devices, unless datasets of the pool are in use.
func (p *Pool) Close() error { return p.disk.Close() }

// RemoveStorage implements backends.StorageRemover. It removes the counters of destroyed subvolumes. The time for this
// is limited: see counters.Drain.
func (p *Pool) RemoveStorage(ctx context.Context) error { return p.counters.Drain(ctx) }

// Clear implements backends.Clearer.
func (p *Pool) Clear(ctx context.Context) (remains string, err error) {
	if err := p.shelf.CheckEmpty(); err != nil {
		return "", err
	}
	if err := p.RemoveStorage(ctx); err != nil {
		return "", err
	}
	if p.disk != nil {
		return p.disk.Remains(Name), p.Close()
	}
	return "", p.shelf.Clear()
}

// Commit implements backends.Pool.
func (p *Pool) Commit(_ context.Context, id uuid.UUID) error {
	return p.shelf.CommitAny(id, p.copier.commit)
}

// WriteRecord implements backends.Pool.
func (p *Pool) WriteRecord(_ context.Context, d dataset.Dataset, sync bool) error {
	return p.shelf.WriteRecord(d, sync)
}

// List implements backends.Pool.
func (p *Pool) List(context.Context) ([]backends.Entry, error) {
	return p.shelf.List(describe(p.quota))
}

// Stat implements backends.Pool.
func (p *Pool) Stat(_ context.Context, id uuid.UUID) (backends.Entry, error) {
	f, err := p.shelf.FindDatasetOrCopy(id)
	if err != nil {
		return backends.Entry{}, err
	}
	defer f.Close()
	return p.shelf.Describe(f, describe(p.quota)), nil
}

// Attach implements backends.Pool. The head needs no preparation.
func (p *Pool) Attach(_ context.Context, id uuid.UUID, opts backends.AttachOptions) (backends.Attachment, error) {
	if len(opts.Mount) > 0 {
		return backends.Attachment{}, dataset.Errorf(dataset.ErrUnsupported,
			"a pool of backend btrfs has no mount options for a single volume (requested: "+
				"%s)", dataset.FormatChoices(opts.Mount))
	}
	f, err := p.shelf.FindDataset(id)
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
	f, err := p.shelf.FindDataset(id)
	if err != nil {
		return err
	}
	defer f.Close()
	return p.uses.CheckIdle(ctx, id, f.Path())
}

// Delete implements backends.Pool. A folder with names that Drover did not make stays.
func (p *Pool) Delete(ctx context.Context, id uuid.UUID) error {
	return p.shelf.Delete(ctx, id)
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
	return p.shelf.Reap(ctx, drop, func(f *shelf.Folder) (int, error) {
		doomed, err := f.Leftovers()
		if err != nil {
			return 0, err
		}
		return len(doomed), p.trees.Destroy(ctx, f.Dir, doomed...)
	})
}
