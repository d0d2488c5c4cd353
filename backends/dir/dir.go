// Package dir is the simplest backend: a dataset is a directory of whatever filesystem the pool lies on, and a
// mounted dataset a bind mount of it. A snapshot copies all files, and only project quotas enforce sizes. The
// capabilities say so.
//
// A folder of a dataset (package shelf) holds:
//
//	head                     the tree that containers see, until a restore
//	head-<uuid>              the tree that a restore made, named after the snapshot that it kept
//	current.json             which tree is the head, its size and project; absent: "head"
//	snapshot-<uuid>          the tree of a snapshot
//	snapshot-<uuid>.json     its record and the name of its tree, written last
//
// # Restore
//
// The snapshot is copied to a new tree; the record of the snapshot that keeps
// the old head is written, naming the head's tree; then current.json is
// replaced. That one rename makes the new tree the head and the old one a
// snapshot. A record that names the current head is therefore a restore that
// was not finished, and no snapshot. Where another host may write to the old head (RestoreApart)
// that is copied before, its record is made to name the copy after, and the tree is removed.
//
// # Sizes
//
// Where the filesystem holds projects to their limits (mount -o prjquota), the tree of each
// head is in a project of its own, that of a restore in another one than that of the head
// before, and a size is the limit of that project. It is put on the tree's root while that is
// empty, and everything that is made below inherits it: nothing is ever opened for that.
// Snapshots are in none, or in that which they had as a head, which bounds nothing any more.
//
// A project is of this pool's own range, and has nobody's files and limits when it is taken.
// A limit that is another than the size on record is set when the pool is opened; it is
// lifted when a tree that has its project on record is removed, or a head no more.
//
// # Copies
//
// A copy takes its time and is no single moment: a dataset that is attached or
// mounted is refused (dataset.ErrInUse), rather than copied into something that
// no database can open.
package dir

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/bindmount"
	"github.com/droverhq/drover/backends/disk"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/steps"
)

// Backend is the kind of storage; its zero value is ready.
type Backend struct {
	name string
	step func(string) // between two acts: for tests
}

// Named returns the same kind of storage for another backend, under the name of that.
func Named(name string) Backend { return Backend{name: name} }

var (
	_ backends.BlockDeviceKind = Backend{}
	_ backends.BoundedKind     = Backend{}
	_ backends.Pool            = (*Pool)(nil)
	_ backends.IdleChecker     = (*Pool)(nil)
	_ backends.Resizer         = (*sizedPool)(nil)
	_ backends.Clearer         = (*Pool)(nil)
)

// Name implements backends.Kind.
func (b Backend) Name() string { return cmp.Or(b.name, "dir") }

// Best implements backends.BoundedKind.
func (Backend) Best() dataset.Capabilities {
	return dataset.Capabilities{
		EnforcesSize:     true,
		KnowsUsed:        true,
		OnlineGrow:       true,
		Shrink:           true,
		CloneIndependent: true,
	}
}

// Takes implements backends.BoundedKind.
func (Backend) Takes(_ string, size dataset.Size) error {
	if size < minSize {
		return dataset.Errorf(dataset.ErrUnsupported, "%s is too small for a volume (at least %s)", size, minSize)
	}
	return nil
}

// Available returns nil where trees can be copied faithfully: as root, on Linux
// 5.12 and later.
func (b Backend) Available(context.Context) error {
	if os.Geteuid() != 0 {
		return dataset.Errorf(dataset.ErrUnsupported,
			"backend %s keeps owners and device nodes: run drover as root", b.Name())
	}
	if err := unix.MountSetattr(-1, "", 0, &unix.MountAttr{}); errors.Is(err, unix.ENOSYS) {
		return dataset.Errorf(dataset.ErrUnsupported, "backend %s needs Linux 5.12 or later (mount_setattr)", b.Name())
	}
	return nil
}

// Open opens or makes a pool in a directory; see backends.Kind.
func (b Backend) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	if cfg.Image != 0 {
		return nil, dataset.Errorf(dataset.ErrUnsupported,
			"backend %s keeps datasets in a directory, not in an image: leave the size out", b.Name())
	}
	p := &Pool{name: cfg.Name, kind: b.Name(), step: b.step}
	if p.step == nil {
		p.step = steps.At
	}
	if len(cfg.Devices) > 0 {
		var err error
		if p.disk, err = disk.Open(ctx, &run.System{}, cfg, fsctl.XFS, []string{"prjquota"}, nil); err != nil {
			return nil, err
		}
		cfg.ID = p.disk.ID
	}
	if err := p.found(cfg, b.Name()); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if p.projects.mend != "" {
		return p, nil
	}
	return &sizedPool{p}, nil
}

// PathOf implements backends.BlockDeviceKind.
func (Backend) PathOf(_, mount string) string { return mount }

// found finds the pool at its path, or makes it.
func (p *Pool) found(cfg backends.Config, backend string) (err error) {
	if p.shelf, err = shelf.Open(cfg, backend); err != nil {
		return err
	}
	if p.projects, err = newProjects(p.shelf); err != nil {
		return err
	}
	p.shelf.Destroy = p.projects.destroy
	how, shares, err := describe(p.shelf.Path())
	if err != nil {
		return err
	}
	p.how, p.trees = how, &trees{shelf: p.shelf, projects: p.projects, shares: shares, step: p.step}
	return p.projects.holdAll(p.shelf)
}

// describe says how files are copied in a pool, and whether they share blocks then.
func describe(path string) (how string, shares bool, err error) {
	how = "copy every byte"
	switch shares, err = reflink.Supported(path); {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		// A full pool has to open, or nothing in it could be removed.
		how = "copy every byte or share blocks (the disk was too full to find out)"
	case err != nil:
		return "", false, fmt.Errorf("find out whether %s has reflinks: %w", path, err)
	case shares:
		how = "visit every file, but share blocks"
	}
	return how, shares, nil
}

// Pool is an open pool without sizes.
type Pool struct {
	name     string
	kind     string // of backend
	shelf    *shelf.Shelf
	disk     *disk.Disk // that it has for itself
	how      string     // a copy is made
	uses     bindmount.Tracker
	projects *projects
	trees    *trees
	step     func(string)
}

// sizedPool is an open pool whose datasets can have a size.
type sizedPool struct{ *Pool }

// Shelf returns how the pool is laid out, for a backend of another name.
func (p *Pool) Shelf() *shelf.Shelf { return p.shelf }

// ID implements backends.Pool.
func (p *Pool) ID() uuid.UUID { return p.shelf.ID() }

// Info implements backends.Pool.
func (p *Pool) Info() backends.Info {
	on := ""
	if p.disk != nil {
		on = "; " + p.disk.Note()
	}
	can := Backend{}.Best()
	if p.projects.mend != "" {
		can.EnforcesSize, can.KnowsUsed, can.OnlineGrow, can.Shrink = false, false, false, false
	}
	return backends.Info{
		Capabilities: can,
		Note: fmt.Sprintf("directories on %s: %s; snapshots and clones %s, and need the volume not "+
			"to be in use%s", p.projects.fs, p.projects.sizes(), p.how, on),
		Path: p.shelf.Path(), Missing: p.projects.missing(),
	}
}

// Status implements backends.Pool.
func (p *Pool) Status(context.Context) dataset.PoolStatus {
	st := p.shelf.Status()
	if st.Online {
		err := backends.Room(p.name, st.Free, st.Size)
		if err == nil && p.projects.mend == "" {
			err = p.shelf.Within(p.projects.stillHolds)
		}
		if err != nil {
			st.Reason = err.Error()
		}
	}
	return st
}

// Generation implements backends.Pool.
func (p *Pool) Generation() (uint64, error) { return p.shelf.Generation() }

// Raise implements backends.Pool.
func (p *Pool) Raise(generation uint64) error { return p.shelf.Raise(generation) }

// room fails with ErrNoSpace while nothing new should begin in the pool.
func (p *Pool) room() error {
	st, err := p.shelf.Space()
	if err != nil {
		return err
	}
	return backends.Room(p.name, st.Free, st.Size)
}

// Trim implements backends.Trimmer.
func (p *Pool) Trim(context.Context) (dataset.Size, error) { return p.shelf.Trim() }

// Close implements backends.Pool. Devices of its own are unmounted, unless datasets on
// them are in use.
func (p *Pool) Close() error { return p.disk.Close() }

// Clear implements backends.Clearer.
func (p *Pool) Clear(context.Context) (left string, err error) {
	if p.disk != nil {
		return p.disk.Left(p.kind), p.Close()
	}
	return "", p.shelf.Clear()
}

// Commit implements backends.Pool.
func (p *Pool) Commit(_ context.Context, id uuid.UUID) error { return p.shelf.Commit(id) }

// Delete implements backends.Pool.
func (p *Pool) Delete(ctx context.Context, id uuid.UUID) error {
	return p.shelf.Delete(ctx, id, func(folder string) error { return p.uses.Idle(ctx, id, folder) })
}

// WriteRecord implements backends.Pool.
func (p *Pool) WriteRecord(_ context.Context, d dataset.Dataset, sync bool) error {
	return p.shelf.WriteRecord(d, sync)
}

// List implements backends.Pool.
func (p *Pool) List(context.Context) ([]backends.Entry, error) {
	return p.shelf.List(p.projects.describe)
}

// Stat implements backends.Pool.
func (p *Pool) Stat(_ context.Context, id uuid.UUID) (backends.Entry, error) {
	f, err := p.shelf.Find(id)
	if err != nil {
		return backends.Entry{}, err
	}
	defer f.Close()
	return p.shelf.Describe(f, p.projects.describe), nil
}

// Reap implements backends.Pool.
func (p *Pool) Reap(ctx context.Context, drop func(uuid.UUID) bool) (int, error) {
	return p.shelf.Reap(ctx, drop, func(f *shelf.Folder) (int, error) { return p.tidy(ctx, f) })
}
