// Package dir is the simplest backend. A dataset is a directory on any filesystem, and a mounted dataset is a bind
// mount of it. A snapshot copies all files. Sizes are enforced only by project quotas. The capabilities of a pool show
// these limits.
//
// A folder of a dataset (package shelf) contains:
//
//	head                     the tree that containers see, until a restore
//	head-<uuid>              the tree that a restore made, named after the snapshot that it kept
//	current.json             which tree is the head, its size and project; if absent: "head"
//	snapshot-<uuid>          the tree of a snapshot
//	snapshot-<uuid>.json     its record and the name of its tree, written last
//
// # Restore
//
// A restore has three steps. It copies the snapshot to a new tree. It writes the record of the snapshot that keeps the
// old head; the record names the tree of the old head. It replaces current.json. That one rename makes the new tree the
// head and the old tree a snapshot. So a record that names the current head was left by an unfinished restore. It does
// not count as a snapshot.
//
// If another host may still write to the old head, backend nfs calls RestoreByCopy. It first copies the old head. After
// the rename, it changes the record so that it names the copy, and removes the tree of the old head.
//
// # Sizes
//
// Sizes are enforced if the filesystem enforces project quotas (mount -o prjquota). The tree of each head is in its own
// project, and the size is the limit of that project. A restore puts the new tree into a new project. The project is
// set on the root of the tree while the tree is empty. Everything made below inherits the project, so Drover never
// opens a file of a dataset to set it. The tree that a snapshot makes is in no project. If a restore turns the tree of
// a head into a snapshot, the tree stays in its project, and the limit of the project is removed.
//
// A pool searches an unused project from a point that its UUID determines, so that two pools on one filesystem seldom
// try the same projects. A project is assigned only if it has neither files nor limits. When the pool is opened, limits
// that differ from the recorded size are set again. A limit is lifted when its tree is removed or is not the head any
// more, if the project of the tree is recorded.
//
// # Copies
//
// Copying takes time, so a copy of a head that is being written to is not its state at one moment. A database could not
// open such a copy. So the head of an attached or mounted dataset is not copied: the error is dataset.ErrInUse.
//
// # State
//
// Package cmd/drover/internal/settings registers the backend, and agent/agenttest does so for tests. The agent opens a
// [Pool] and calls it by the contract of package backends. Backend nfs is built on this package: it opens the pool
// under another name (Named). A pool remembers its attachments (package bindmount) and the next unused project, each
// protected by a mutex, and what its copies have still to write. Everything else is read from the disk. An open folder
// claims its dataset (package shelf), which only excludes Reap. The caller of backends.Pool prevents other concurrent
// changes of the dataset, except while a snapshot is copied: see checkSnapshot.
//
// Where to change what: project quotas are in project.go, the copies of trees in trees.go, and the steps of a restore
// in snapshot.go.
package dir

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/bindmount"
	"github.com/droverhq/drover/backends/disk"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/steps"
)

// Backend implements backends.Kind. The zero value is ready to use.
type Backend struct {
	name string
	step func(string) // called between two actions, for tests
}

// Named returns the backend under another name, for a backend that is built on it.
func Named(name string) Backend { return Backend{name: name} }

var (
	_ backends.BlockDeviceKind = Backend{}
	_ backends.BoundedKind     = Backend{}
	_ backends.Pool            = (*Pool)(nil)
	_ backends.IdleChecker     = (*Pool)(nil)
	_ backends.Resizer         = (*sizedPool)(nil)
	_ backends.Clearer         = (*Pool)(nil)
	_ backends.Compressor      = (*Pool)(nil)
)

// Name implements backends.Kind.
func (b Backend) Name() string { return cmp.Or(b.name, "dir") }

// MaxCapabilities implements backends.BoundedKind.
func (Backend) MaxCapabilities() dataset.Capabilities {
	return dataset.Capabilities{
		EnforcesSize:     true,
		KnowsUsed:        true,
		OnlineGrow:       true,
		Shrink:           true,
		CloneIndependent: true,
	}
}

// CheckSize implements backends.BoundedKind.
func (Backend) CheckSize(_ string, size dataset.Size) error {
	if size < minSize {
		return dataset.Errorf(dataset.ErrUnsupported, "%s is too small for a volume (at least %s)", size, minSize)
	}
	return nil
}

// Available implements backends.Kind. It returns nil if trees can be copied with all their attributes: as root.
func (b Backend) Available(context.Context) error {
	if os.Geteuid() != 0 {
		return dataset.Errorf(dataset.ErrUnsupported,
			"backend %s preserves owners and device nodes: run drover as root", b.Name())
	}
	return nil
}

// Open opens or makes a pool in a directory; see backends.Kind.
func (b Backend) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	if cfg.Image != 0 {
		return nil, dataset.Errorf(dataset.ErrUnsupported,
			"backend %s stores datasets in a directory, not in an image: omit the size", b.Name())
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
	if err := p.openOrMake(cfg, b.Name()); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if p.projects.advice != "" {
		return p, nil
	}
	return &sizedPool{p}, nil
}

// PathOf implements backends.BlockDeviceKind.
func (Backend) PathOf(_, mount string) string { return mount }

// openOrMake opens the pool at its path. If cfg.Make is set, it makes the pool.
func (p *Pool) openOrMake(cfg backends.Config, backend string) (err error) {
	if p.Shelf, err = shelf.Open(cfg, backend); err != nil {
		return err
	}
	p.uses.MountPath = cfg.MountPath
	if p.projects, err = newProjects(p.Shelf); err != nil {
		return err
	}
	p.Shelf.Destroy = p.projects.destroy
	p.Shelf.CheckUnused = func(ctx context.Context, f *shelf.Folder) error {
		return p.uses.CheckRemovable(ctx, f.ID, f.Path(), f.State)
	}
	if p.copyMethod, p.shares, err = describe(p.Path()); err != nil {
		return err
	}
	return p.projects.enforceAll(p.Shelf)
}

// describe reports how files are copied in a pool, and whether a copy shares blocks with its source.
func describe(path string) (method string, shares bool, err error) {
	method = "copy every byte"
	switch shares, err = reflink.Supported(path); {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		// Opening must succeed on a full pool. Otherwise nothing in it could be removed.
		method = "copy every byte or share blocks (the disk was too full to determine which)"
	case err != nil:
		return "", false, fmt.Errorf("check whether %s has reflinks: %w", path, err)
	case shares:
		method = "visit every file, but share blocks"
	}
	return method, shares, nil
}

// Pool is an open pool without sizes.
type Pool struct {
	name string
	kind string // the backend's name
	*shelf.Shelf
	disk       *disk.Disk // the pool's own disk; nil if it has none
	copyMethod string     // how files are copied, for Info
	uses       bindmount.Tracker
	projects   *projects
	shares     bool // a copied file shares blocks with its source
	// copying is how many bytes the running copies have still to write: several at once must not fill the pool.
	copying atomic.Int64
	step    func(string)
}

// sizedPool is an open pool whose datasets can have a size.
type sizedPool struct{ *Pool }

// Info implements backends.Pool.
func (p *Pool) Info() backends.Info {
	devices := ""
	if p.disk != nil {
		devices = "; " + p.disk.Note()
	}
	caps := Backend{}.MaxCapabilities()
	if p.projects.advice != "" {
		caps.EnforcesSize, caps.KnowsUsed, caps.OnlineGrow, caps.Shrink = false, false, false, false
	}
	return backends.Info{
		Capabilities: caps,
		Note: fmt.Sprintf("directories on %s: %s; snapshots and clones %s, and require that the volume is not in "+
			"use%s", p.projects.fs, p.projects.enforcement(), p.copyMethod, devices),
		Path: p.Shelf.Path(), Missing: p.projects.missing(), UsedStartsNoProgram: true,
	}
}

// Status implements backends.Pool.
func (p *Pool) Status(context.Context) dataset.PoolStatus {
	st := p.Shelf.Status()
	if st.Online {
		err := backends.CheckRoom(p.name, st.Free, st.Size)
		if err == nil && p.projects.advice == "" {
			err = p.Shelf.Within(p.projects.checkEnforced)
		}
		if err != nil {
			st.Reason = err.Error()
		}
	}
	return st
}

// Trim implements backends.Trimmer.
func (p *Pool) Trim(context.Context) (dataset.Size, error) { return p.Shelf.Trim() }

// Close implements backends.Pool. It unmounts the pool's own devices, unless datasets on them are in use.
func (p *Pool) Close() error { return p.disk.Close() }

// Clear implements backends.Clearer.
func (p *Pool) Clear(context.Context) (remains string, err error) {
	if p.disk == nil {
		return "", p.Shelf.Clear()
	}
	if err := p.Shelf.CheckEmpty(); err != nil {
		return "", err
	}
	return p.disk.Remains(p.kind), p.Close()
}

// Compresses implements backends.Compressor.
func (p *Pool) Compresses() bool { return mount.Compresses(p.Shelf.Path()) }

// List implements backends.Pool.
func (p *Pool) List(context.Context) ([]backends.Entry, error) {
	return p.Shelf.List(p.projects.describe)
}

// Stat implements backends.Pool.
func (p *Pool) Stat(_ context.Context, id uuid.UUID) (backends.Entry, error) {
	f, err := p.Shelf.FindDataset(id)
	if err != nil {
		return backends.Entry{}, err
	}
	defer f.Close()
	return p.Shelf.Describe(f, p.projects.describe), nil
}

// Reap implements backends.Pool.
func (p *Pool) Reap(ctx context.Context, drop func(uuid.UUID) bool) (int, error) {
	return p.Shelf.Reap(ctx, drop, func(f *shelf.Folder) (int, error) {
		doomed, err := f.Leftovers()
		if err != nil {
			return 0, err
		}
		return len(doomed), p.removeAll(ctx, f, doomed...)
	})
}
