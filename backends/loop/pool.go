package loop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/disk"
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/claims"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
)

const defaultSize = 10 * dataset.GiB

// Pool is an open pool of images.
type Pool struct {
	backend  *Backend
	name     string
	path     string // the directory
	image    *poolImage
	disk     *disk.Disk
	identity identity
	layout   layout.Layout
	direct   bool // files can be read and written past the page cache
	records  layout.RecordWriter
	keys     backends.Keys
	info     backends.Info
	seen     atomic.Pointer[stamp] // of the identity that was recognised last
	claims   claims.Claims
	back     claims.Moves // of datasets that become copies
	format   sync.Mutex   // held while a template is made
	raising  sync.Mutex   // held while the identity is written anew
	lately   lately
}

var (
	_ backends.Pool     = (*Pool)(nil)
	_ backends.Resizer  = (*Pool)(nil)
	_ backends.Copier   = (*Pool)(nil)
	_ backends.Staller  = (*Pool)(nil)
	_ backends.Rewriter = (*Pool)(nil)

	_ backends.Formatter = (*Pool)(nil)
)

// ID implements backends.Pool.
func (p *Pool) ID() uuid.UUID { return p.identity.ID }

// Info implements backends.Pool.
func (p *Pool) Info() backends.Info { return p.info }

func (p *Pool) step(name string) { p.backend.step("loop." + name) }

// open opens the pool's directory after a look whether it is still this pool. Nothing
// is kept open between operations: an idle pool's disk can be unmounted.
func (p *Pool) open() (folder.Dir, error) {
	root, err := folder.Open(p.path)
	if err != nil {
		return folder.Dir{}, p.offline("%w", err)
	}
	if err := p.recognise(root); err != nil {
		_ = root.Close()
		return folder.Dir{}, p.offline("%w", err)
	}
	return root, nil
}

// stamp identifies a version of a file.
type stamp struct {
	dev, ino uint64
	ctime    unix.Timespec
}

// recognise reads the identity of what lies at the pool's path, unless it is the same
// file as the last time.
func (p *Pool) recognise(root folder.Dir) error {
	st, err := root.Lstat(layout.IdentityFile)
	if err != nil {
		return err
	}
	now := stamp{dev: st.Dev, ino: st.Ino, ctime: st.Ctim}
	if last := p.seen.Load(); last != nil && *last == now {
		return nil
	}
	var id identity
	raw, err := root.ReadFile(layout.IdentityFile, layout.MaxRecord)
	if err == nil {
		err = json.Unmarshal(raw, &id)
	}
	if err != nil {
		return err
	}
	if id.ID != p.identity.ID {
		return fmt.Errorf("pool %s lies there", id.ID)
	}
	p.seen.Store(&now)
	return nil
}

// Generation implements backends.Pool.
func (p *Pool) Generation() (uint64, error) {
	root, err := p.open()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	var id identity
	if err := layout.ReadRecord(root, layout.IdentityFile, &id); err != nil {
		return 0, p.offline("%w", err)
	}
	return id.Generation, nil
}

// Raise implements backends.Pool.
func (p *Pool) Raise(generation uint64) error {
	p.raising.Lock()
	defer p.raising.Unlock()
	root, err := p.open()
	if err != nil {
		return err
	}
	defer root.Close()
	var id identity
	if err := layout.ReadRecord(root, layout.IdentityFile, &id); err != nil {
		return p.offline("%w", err)
	}
	id.Generation = generation
	return noSpace(replaceIdentity(root, id))
}

func (p *Pool) offline(format string, args ...any) error {
	return dataset.Errorf(dataset.ErrOffline, "pool %s at %s is offline: %w", p.name, p.path,
		fmt.Errorf(format, args...))
}

// Status implements backends.Pool.
func (p *Pool) Status(context.Context) dataset.PoolStatus {
	st := dataset.PoolStatus{ID: p.identity.ID}
	root, err := p.open()
	if err != nil {
		st.Reason = err.Error()
		return st
	}
	defer root.Close()
	free, size, err := space(root)
	if err != nil {
		st.Reason = err.Error()
		return st
	}
	st.Online, st.Free, st.Size = true, free, size
	if left, err := root.Entries(layout.Deleting); err == nil {
		st.Pending = len(left)
	}
	if err := p.room(root); err != nil {
		st.Reason = err.Error()
	}
	return st
}

// space returns the free bytes and the size of the filesystem that a pool lies on.
func space(root folder.Dir) (free, size dataset.Size, err error) {
	f, s, err := fsctl.SpaceOf(root.File)
	return dataset.Size(f), dataset.Size(s), err
}

// room fails with ErrNoSpace when the pool is so full that nothing new should begin in
// it: what is there already would get the errors.
func (p *Pool) room(root folder.Dir) error {
	free, size, err := space(root)
	if err != nil {
		return err
	}
	if err := backends.Room(p.name, free, size); err != nil {
		return err
	}
	if p.image != nil {
		return p.image.room()
	}
	return nil
}

// Trim implements backends.Trimmer.
func (p *Pool) Trim(context.Context) (dataset.Size, error) {
	root, err := p.open()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	n, err := fsctl.Trim(root.File)
	return dataset.Size(n), err
}

// Close implements backends.Pool. A pool in an image or on devices of its own is
// unmounted, unless datasets of it are in use: then it stays for the next Open.
func (p *Pool) Close() error {
	err := p.settled()
	if p.image == nil {
		return errors.Join(err, p.disk.Close())
	}
	return errors.Join(err, p.image.close())
}

// find opens the directory of a dataset, ready or incoming and whole, and tells in which
// place of root it lies. ErrCorrupt: something else has its name; ErrConflict: it is a
// copy.
func (p *Pool) find(root folder.Dir, id uuid.UUID) (dir folder.Dir, place string, err error) {
	dir, place, err = p.findAny(root, id)
	if err == nil && place == layout.Copies {
		_ = dir.Close()
		return folder.Dir{}, "", p.headless(id)
	}
	return dir, place, err
}

// headless says why a copy is not used as a dataset.
func (p *Pool) headless(id uuid.UUID) error {
	return dataset.Errorf(dataset.ErrConflict, "pool %s has a copy of dataset %s alone: its home is elsewhere",
		p.name, id)
}

// findAny finds copies too.
func (p *Pool) findAny(root folder.Dir, id uuid.UUID) (dir folder.Dir, place string, err error) {
	for {
		before := p.back.Count()
		dir, place, err = p.search(root, id, layout.Datasets, layout.Incoming)
		if errors.Is(err, dataset.ErrNotFound) { // unless it was committed meanwhile
			dir, place, err = p.search(root, id, layout.Datasets)
		}
		if err == nil || p.back.Count() == before {
			return dir, place, err
		}
	}
}

// search looks for a dataset at places, and then among the copies.
func (p *Pool) search(root folder.Dir, id uuid.UUID, places ...string) (dir folder.Dir, place string, err error) {
	for _, place := range places {
		dir, err := root.Sub(filepath.Join(place, id.String()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return dir, place, dataset.Errorf(dataset.ErrCorrupt, "%w", err)
		}
		_, err = dir.Lstat(p.layout.Image(layout.Head))
		if err == nil {
			return dir, place, nil
		}
		if errors.Is(err, os.ErrNotExist) && place == layout.Datasets {
			err = p.damaged(dir)
		}
		_ = dir.Close()
		if !errors.Is(err, os.ErrNotExist) {
			return dir, place, err
		}
	}
	dir, err = root.Sub(filepath.Join(layout.Copies, id.String()))
	if err == nil {
		var begun bool
		if begun, err = p.begun(dir); err == nil && begun {
			return dir, layout.Copies, nil
		}
		_ = dir.Close()
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return folder.Dir{}, layout.Copies, dataset.Errorf(dataset.ErrCorrupt, "%w", err)
	}
	return folder.Dir{}, "", dataset.Errorf(dataset.ErrNotFound, "pool %s has no dataset %s", p.name, id)
}

// damaged says what is wrong with a ready dataset that has no head.
func (p *Pool) damaged(dir folder.Dir) error {
	if _, err := dir.Lstat(layout.RecordFile); err != nil {
		return dataset.Errorf(dataset.ErrCorrupt, "%s holds nothing of a dataset: drover made no such thing",
			dir.Name())
	}
	return dataset.Errorf(dataset.ErrCorrupt, "%s has lost its image", dir.Name())
}

// within opens the pool and a dataset's directory for the time of f.
func (p *Pool) within(id uuid.UUID, f func(dir folder.Dir) error) error {
	root, err := p.open()
	if err != nil {
		return err
	}
	defer root.Close()
	defer p.claims.Use(id)()
	dir, _, err := p.find(root, id)
	if err != nil {
		return err
	}
	defer dir.Close()
	return noSpace(f(dir))
}

// withinAny is within for what copies can do as well; f is told where the dataset lies.
func (p *Pool) withinAny(id uuid.UUID, f func(dir folder.Dir, place string) error) error {
	root, err := p.open()
	if err != nil {
		return err
	}
	defer root.Close()
	defer p.claims.Use(id)()
	dir, place, err := p.findAny(root, id)
	if err != nil {
		return err
	}
	defer dir.Close()
	return noSpace(f(dir, place))
}

// A container that is being started holds copies of all mounts of the host until it
// leaves them, and a process that is being forked copies of all descriptors: with them
// the loop devices of datasets that were unmounted a moment ago.
const (
	busyTries = 100
	busyPause = 10 * time.Millisecond
)

// idle fails with ErrInUse when the head in dir is mounted in any mount namespace, or attached to a
// loop device and stays so.
func (p *Pool) idle(ctx context.Context, dir folder.Dir) error {
	for try := 0; ; try++ {
		device, err := p.device(dir)
		if err != nil || device == "" {
			return err
		}
		table, err := mount.Table()
		if err != nil {
			return err
		}
		mapping, mapped, err := p.letGo(dir)
		if err != nil {
			return err
		}
		where := table.From(device)
		if all := table.Of(int(mapping.Major), int(mapping.Minor)); mapped && len(all) > 0 {
			where = all[0]
		}
		if where != nil {
			return dataset.Errorf(dataset.ErrInUse, "it is mounted at %s", where.Mountpoint)
		}
		if try == busyTries || ctx.Err() != nil {
			if mapped {
				device = mapping.Path()
			}
			return attachedBy(ctx, device)
		}
		select {
		case <-ctx.Done():
		case <-time.After(busyPause):
		}
	}
}

// device returns the loop device that the head in dir is attached to, if any.
func (p *Pool) device(dir folder.Dir) (string, error) {
	f, err := dir.Open(p.layout.Image(layout.Head))
	if err != nil {
		return "", folder.AbsentIsFine(err)
	}
	defer f.Close()
	info, _, err := loopdev.Attached(f)
	return info.Path, err
}

// noSpace gives ENOSPC the kind that the contract has for it.
func noSpace(err error) error {
	if err != nil && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) &&
		!errors.Is(err, dataset.ErrNoSpace) {
		return dataset.Errorf(dataset.ErrNoSpace, "%w", err)
	}
	return err
}
