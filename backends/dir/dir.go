// Package dir is the simplest backend: a dataset is a directory of whatever
// filesystem the pool lies on, and a mounted dataset a bind mount of it. It can
// neither enforce a size nor take a snapshot without copying; both stand in its
// capabilities.
//
// A folder of a dataset (package shelf) holds:
//
//	head                     the tree that containers see, until a restore
//	head-<uuid>              the tree that a restore made, named after the snapshot that it kept
//	current.json             which tree is the head; absent: "head"
//	snapshot-<uuid>          the tree of a snapshot
//	snapshot-<uuid>.json     its record and the name of its tree, written last
//
// # Restore
//
// The snapshot is copied to a new tree; the record of the snapshot that keeps
// the old head is written, naming the head's tree; then current.json is
// replaced. That one rename makes the new tree the head and the old one a
// snapshot. A record that names the current head is therefore a restore that
// was not finished, and no snapshot.
//
// # Copies
//
// A copy takes its time and is no single moment: a dataset that is attached or
// mounted is refused (dataset.ErrInUse), rather than copied into something that
// no database can open.
package dir

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/fsctl"
	"github.com/droverhq/drover/internal/reflink"
)

// Backend is the kind of storage; its zero value is ready.
type Backend struct{}

var (
	_ backends.Kind = Backend{}
	_ backends.Pool = (*Pool)(nil)
)

// Name returns "dir".
func (Backend) Name() string { return "dir" }

// Available returns nil where trees can be copied faithfully: as root, on Linux
// 5.12 and later.
func (Backend) Available(context.Context) error {
	if os.Geteuid() != 0 {
		return dataset.Errorf(dataset.ErrUnsupported, "backend dir keeps owners and device nodes: run drover as root")
	}
	if err := unix.MountSetattr(-1, "", 0, &unix.MountAttr{}); errors.Is(err, unix.ENOSYS) {
		return dataset.Errorf(dataset.ErrUnsupported, "backend dir needs Linux 5.12 or later (mount_setattr)")
	}
	return nil
}

// Open opens or makes a pool in a directory; see backends.Kind.
func (b Backend) Open(_ context.Context, cfg backends.Config) (backends.Pool, error) {
	if cfg.Image != 0 {
		return nil, dataset.Errorf(dataset.ErrUnsupported, "backend dir keeps datasets in a directory, not in an image: leave the size out")
	}
	s, err := shelf.Open(cfg, b.Name())
	if err != nil {
		return nil, err
	}
	p := &Pool{name: cfg.Name, shelf: s}
	if p.note, p.shares, err = describe(s.Path()); err != nil {
		return nil, err
	}
	return p, nil
}

// describe says what lies below a pool, and whether files share blocks there.
func describe(path string) (note string, shares bool, err error) {
	fs, err := fsctl.KindOf(path)
	if err != nil {
		return "", false, err
	}
	how := "copy every byte"
	switch shares, err = reflink.Supported(path); {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		// A full pool has to open, or nothing in it could be removed.
		how = "copy every byte or share blocks (the disk was too full to find out)"
	case err != nil:
		return "", false, fmt.Errorf("find out whether %s has reflinks: %w", path, err)
	case shares:
		how = "visit every file, but share blocks"
	}
	return fmt.Sprintf("directories on %s: no size limits; snapshots and clones %s, and need the volume not to be in use", fs, how), shares, nil
}

// Pool is an open pool.
type Pool struct {
	name   string
	shelf  *shelf.Shelf
	note   string
	shares bool // files share blocks
	uses   shelf.Uses
}

// ID implements backends.Pool.
func (p *Pool) ID() uuid.UUID { return p.shelf.ID() }

// Info implements backends.Pool.
func (p *Pool) Info() backends.Info {
	return backends.Info{
		Capabilities: dataset.Capabilities{CloneIndependent: true},
		Note:         p.note,
		Path:         p.shelf.Path(),
	}
}

// Status implements backends.Pool.
func (p *Pool) Status(context.Context) dataset.PoolStatus {
	st := p.shelf.Status()
	if st.Online {
		if err := backends.Room(p.name, st.Free, st.Size); err != nil {
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
	st := p.shelf.Status()
	if !st.Online {
		return dataset.Errorf(dataset.ErrOffline, "%s", st.Reason)
	}
	return backends.Room(p.name, st.Free, st.Size)
}

// Close implements backends.Pool; there is nothing to let go of.
func (p *Pool) Close() error { return nil }

// Commit implements backends.Pool.
func (p *Pool) Commit(_ context.Context, id uuid.UUID) error { return p.shelf.Commit(id) }

// Delete implements backends.Pool.
func (p *Pool) Delete(ctx context.Context, id uuid.UUID) error {
	return p.shelf.Delete(ctx, id, func(folder string) error { return p.uses.None(id, folder) })
}

// WriteRecord implements backends.Pool.
func (p *Pool) WriteRecord(_ context.Context, d dataset.Dataset, sync bool) error {
	f, err := p.shelf.Find(d.ID)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.WriteRecord(d, sync)
}

// List implements backends.Pool.
func (p *Pool) List(context.Context) ([]backends.Entry, error) {
	return p.shelf.List(shelf.DescribeTrees)
}

// Stat implements backends.Pool.
func (p *Pool) Stat(_ context.Context, id uuid.UUID) (backends.Entry, error) {
	f, err := p.shelf.Find(id)
	if err != nil {
		return backends.Entry{}, err
	}
	defer f.Close()
	return p.shelf.Describe(f, shelf.DescribeTrees), nil
}

// Reap implements backends.Pool.
func (p *Pool) Reap(ctx context.Context, drop func(uuid.UUID) bool) (int, error) {
	return p.shelf.Reap(ctx, drop, func(f *shelf.Folder) (int, error) { return tidy(ctx, f) })
}
