// Package nfs keeps datasets on an NFS share that several hosts have mounted. It stores them as backend dir does. In
// addition, a dataset can move to another host without being copied.
//
// # One share, a pool for each host
//
//	share.json       the UUID of the share, made by the first host
//	<folder>/        a pool that belongs to one host, laid out by package shelf
//	<folder>/ …
//
// A host changes only its own pool: it makes and removes datasets, reaps, and raises the generation only there. So a
// pool behaves like that of a single host, and hosts need no locks between them.
//
// When another host becomes the home of a dataset, that host moves the dataset from the old pool to its own by a
// rename, after control has opened the new epoch. By then, the old home has recorded on its own disk that it
// relinquished the dataset, and no longer touches it. An old home that was unreachable during the move finds that its
// pool no longer has the dataset, and so cannot mount it again. The record beside the data contains the epoch at which
// the dataset was taken. A host with an earlier epoch cannot take the dataset back.
//
// Package cmd/drover/internal/settings registers the backend, and agent/agenttest does so for tests. The agent opens a
// [Pool] and calls it by the contract of package backends. For moves it calls the methods of backends.Sharer, which use
// shelf.Exchange for the renames and the checks of epochs. A Pool keeps no state about datasets besides that of backend
// dir.
//
// # Why NFS 4
//
// In NFS 4, removing an open file, retrying a rename, and locks work as on a disk. CIFS keeps neither owners nor device
// nodes. Ceph will have a separate backend.
package nfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/safefile"
)

// Name is the backend's name in drover.yaml and profiles.yaml.
const Name = "nfs"

const (
	shareName = "share.json"
	probe     = shelf.Temp + "share-" // the prefix of temporary names in the share; a crash may leave such names
)

// Backend is the kind of storage; its zero value is ready.
type Backend struct {
	// Network fails unless a path is on a usable share, and returns warnings about the share. If Network is nil, the
	// backend uses onNFS, which reads the mount table.
	Network func(path string) (note string, err error)
}

var (
	_ backends.BoundedKind = Backend{}
	_ backends.IdleChecker = (*Pool)(nil)
	_ backends.Sharer      = (*Pool)(nil)
)

// Name implements backends.Kind.
func (Backend) Name() string { return Name }

// MaxCapabilities implements backends.BoundedKind. No pool enforces sizes, because shares have no project quotas.
func (Backend) MaxCapabilities() dataset.Capabilities {
	return dataset.Capabilities{CloneIndependent: true, ManyHosts: true}
}

// CheckSize implements backends.BoundedKind.
func (Backend) CheckSize(string, dataset.Size) error { return nil }

// Available implements backends.Kind.
func (b Backend) Available(ctx context.Context) error {
	if b.Network == nil && !mountable("/proc/filesystems", "/lib/modules") {
		return dataset.Errorf(dataset.ErrUnsupported,
			"backend nfs needs a kernel with NFS: this one has neither NFS nor modules (/proc/filesystems)")
	}
	return dir.Named(Name).Available(ctx)
}

// mountable reports whether the kernel has NFS, or may load its module when a share is mounted. If this cannot be
// determined, it returns true.
func mountable(filesystems, modules string) bool {
	if _, err := os.Stat(modules); !errors.Is(err, fs.ErrNotExist) {
		return true
	}
	registered, err := os.ReadFile(filesystems)
	return err != nil || slices.Contains(strings.Fields(string(registered)), "nfs4")
}

// Open implements backends.Kind.
func (b Backend) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	network := b.Network
	if network == nil {
		network = onNFS
	}
	p := &Pool{path: filepath.Dir(cfg.Path)}
	// If this is not a directory, opening the shelf reports it.
	if info, err := os.Stat(p.path); err == nil && info.IsDir() && filepath.IsAbs(cfg.Path) {
		if p.note, err = network(p.path); err != nil {
			return nil, err
		}
		if cfg.Make {
			err = checkShare(p.path)
		}
		if err == nil {
			err = checkNotMount(p.path, filepath.Base(cfg.Path))
		}
		if err == nil {
			p.share, err = join(p.path, cfg.Make)
		}
		if err != nil {
			return nil, fmt.Errorf("share %s: %w", p.path, err)
		}
	}
	in, err := dir.Named(Name).Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	p.Pool, p.dir = in, in.(*dir.Pool)
	p.exchange, p.ownPath = shelf.NewExchange(p.dir.Shelf), p.dir.Shelf.Path()
	return p, nil
}

// onNFS is the default of Backend.Network. It reads the mount table.
func onNFS(path string) (note string, err error) {
	kind, err := fsctl.KindOf(path)
	if err != nil {
		return "", err
	}
	if kind != fsctl.NFS {
		return "", dataset.Errorf(dataset.ErrUnsupported,
			"%s is on %s: backend nfs needs a share that every host mounts (mount -t nfs -o vers=4.2,hard "+
				"SERVER:/EXPORT DIR; for storage of a single host use backend dir)", path, kind)
	}
	table, err := mount.Table()
	if err != nil {
		return "", err
	}
	at := table.On(path)
	if at == nil {
		return "", fmt.Errorf("the mount of %s is not in the mount table", path)
	}
	options := strings.Split(at.VFSOptions, ",")
	has := func(want string) bool {
		return slices.ContainsFunc(options, func(o string) bool { return o == want || strings.HasPrefix(o, want+".") })
	}
	switch {
	case !has("vers=4"):
		return "", dataset.Errorf(dataset.ErrUnsupported,
			"%s is mounted by an NFS version before 4, which cannot remove open files or rename exactly once: "+
				"mount it with -o vers=4.2", at.Mountpoint)
	case has("ro") || slices.Contains(strings.Split(at.Options, ","), "ro"):
		return "", dataset.Errorf(dataset.ErrOffline, "%s is mounted read-only: unmount it, and mount it with -o rw",
			at.Mountpoint)
	case has("soft"), has("softerr"):
		return "; it is mounted soft, so writes are lost if the server is unreachable for long: mount it hard", nil
	}
	return "", nil
}

// openShare opens the directory of a share. Its path may be a symbolic link.
func openShare(path string) (safefile.Dir, error) {
	f, err := os.Open(path)
	return safefile.Dir{File: f}, err
}

// checkShare fails if a directory is not suitable for the pools of a share: it contains files that do not belong to a
// share, or the server squashes root.
func checkShare(share string) error {
	root, err := openShare(share)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := root.Lstat(shareName); err != nil {
		names, err := root.Names(".")
		if err != nil {
			return err
		}
		for _, name := range names {
			if strings.HasPrefix(name, shelf.Temp) {
				continue
			}
			// Another host may have made the share, and a pool on it, since.
			if _, err := root.Lstat(shareName); err != nil {
				return dataset.Errorf(dataset.ErrExists,
					"it contains %q and is not a share of drover: create an empty folder on it, such as drover, "+
						"and a pool below that for each host", name)
			}
		}
	}
	return checkOwners(root)
}

// checkOwners fails if the server squashes root.
func checkOwners(root safefile.Dir) (err error) {
	name := probe + uuid.NewString()
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR)
	if errors.Is(err, unix.EROFS) {
		return dataset.Errorf(dataset.ErrUnsupported,
			"its server does not allow writes: export it with rw to this host")
	}
	if err == nil {
		defer func() { err = errors.Join(err, f.Close(), root.Remove(name)) }()
		err = f.Chown(12345, 54321)
	}
	var st unix.Stat_t
	if err == nil {
		err = unix.Fstat(int(f.Fd()), &st)
	}
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EINVAL),
		err == nil && (st.Uid != 12345 || st.Gid != 54321):
		return dataset.Errorf(dataset.ErrUnsupported,
			"it does not let root change owners: its server maps root to nobody (export it with no_root_squash, "+
				"to these hosts only)")
	}
	return err
}

// checkNotMount fails if the folder of a pool is a separate mount, because datasets could not be renamed from it to
// another pool. It ignores an absent folder, and a file in its place, which package shelf reports.
func checkNotMount(share, pool string) error {
	root, err := openShare(share)
	if err != nil {
		return err
	}
	defer root.Close()
	if in, err := root.Lstat(pool); err != nil || !safefile.IsDir(in) {
		return nil
	}
	to, err := root.Sub(pool)
	if err != nil {
		return err
	}
	defer to.Close()
	return shelf.CheckOneMount(root, ".", to, ".")
}

const shareFormat = 1

// share is the content of share.json.
type share struct {
	Format int       `json:"format"`
	ID     uuid.UUID `json:"id"`
}

// join returns the UUID of a share. If the share has none and make is set, join writes a new one into it. If several
// hosts do so at once, all of them return the UUID of the first one.
func join(path string, make bool) (uuid.UUID, error) {
	root, err := openShare(path)
	if err != nil {
		return uuid.Nil, err
	}
	defer root.Close()
	for {
		data, err := root.Read(shareName)
		if err == nil {
			var s share
			err := dataset.DecodeFormat(data, shareName, shareFormat, &s)
			if errors.Is(err, dataset.ErrUnsupported) {
				return uuid.Nil, err
			}
			if err != nil || s.ID == uuid.Nil {
				return uuid.Nil, dataset.Errorf(dataset.ErrCorrupt, "%s does not name its share", shareName)
			}
			return s.ID, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return uuid.Nil, err
		}
		if !make {
			return uuid.Nil, dataset.Errorf(dataset.ErrOffline, "%s does not exist (is the share mounted?)", shareName)
		}
		name := probe + uuid.NewString()
		if err := shelf.WriteJSON(root, name, share{Format: shareFormat, ID: uuid.New()}, true); err != nil {
			return uuid.Nil, err
		}
		err = root.Link(name, shareName)
		if err = errors.Join(root.Remove(name), shelf.SyncDir(root), ignoreExists(err)); err != nil {
			return uuid.Nil, err
		}
	}
}

func ignoreExists(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// Pool is an open pool.
type Pool struct {
	backends.Pool
	dir      *dir.Pool // the same pool as Pool, with the methods of backend dir
	exchange *shelf.Exchange
	path     string // the path of the share
	ownPath  string // the path of this host's pool
	share    uuid.UUID
	note     string
}

// Clear implements backends.Clearer. It clears this host's pool, and leaves the share, which other hosts use too.
func (p *Pool) Clear(ctx context.Context) (remains string, err error) { return p.dir.Clear(ctx) }

// Info implements backends.Pool.
func (p *Pool) Info() backends.Info {
	info := p.Pool.Info()
	info.Share, info.Capabilities.ManyHosts = p.share, true
	info.Note = "on a share: a volume moves to another host's pool on it without a copy" + p.note + "; " + info.Note
	return info
}

// Stat implements backends.Pool. A dataset that another host has taken is not found.
func (p *Pool) Stat(ctx context.Context, id uuid.UUID) (e backends.Entry, err error) {
	if err := p.exchange.Refresh(); err != nil {
		return e, err
	}
	return p.Pool.Stat(ctx, id)
}

// Attach implements backends.Pool; see Stat.
func (p *Pool) Attach(ctx context.Context, id uuid.UUID, opts backends.AttachOptions) (a backends.Attachment,
	err error) {
	if err := p.exchange.Refresh(); err != nil {
		return a, err
	}
	return p.Pool.Attach(ctx, id, opts)
}

// CheckIdle implements backends.IdleChecker.
func (p *Pool) CheckIdle(ctx context.Context, id uuid.UUID) error {
	if err := p.exchange.Refresh(); err != nil {
		return err
	}
	return p.Pool.(backends.IdleChecker).CheckIdle(ctx, id)
}

// CheckVisible implements backends.Sharer.
func (p *Pool) CheckVisible(_ context.Context, id, pool uuid.UUID) error {
	path, err := p.pathOf(pool)
	if err != nil {
		return err
	}
	return p.exchange.Check(path, id)
}

// Visit implements backends.Sharer.
func (p *Pool) Visit(_ context.Context, id, pool uuid.UUID, opts backends.AttachOptions) (a backends.Attachment,
	err error) {
	path, err := p.pathOf(pool)
	if err != nil {
		return a, err
	}
	f, err := p.exchange.Open(path, id)
	if err != nil {
		return a, err
	}
	a, err = p.dir.AttachFolder(f, opts)
	return a, errors.Join(err, f.Close())
}

// RestoreByCopy implements backends.Sharer.
func (p *Pool) RestoreByCopy(ctx context.Context, ds, id uuid.UUID, keep dataset.Snapshot,
	progress backends.Progress) error {
	return p.dir.RestoreByCopy(ctx, ds, id, keep, progress)
}

// Take implements backends.Sharer.
func (p *Pool) Take(_ context.Context, d dataset.Dataset, from backends.PreviousHome) error {
	path, err := p.pathOf(from.Pool)
	if err == nil && path != p.ownPath {
		if err = p.exchange.Take(path, d); err != nil {
			err = fmt.Errorf("take it from %s: %w", path, err)
		}
	}
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	if taken, hErr := p.exchange.ConfirmTaken(d, from.Epoch); taken || hErr != nil {
		return hErr
	}
	if err == nil {
		err = dataset.Errorf(dataset.ErrNotFound, "%s does not contain dataset %s", path, d.ID)
	}
	return err
}

func (p *Pool) pathOf(pool uuid.UUID) (string, error) {
	root, err := openShare(p.path)
	if err != nil {
		return "", dataset.Errorf(dataset.ErrOffline, "share %s: %w", p.path, err)
	}
	defer root.Close()
	found, err := shelf.FindPools(root, Name, pool)
	switch {
	case err != nil:
		return "", err
	case len(found) == 0:
		return "", dataset.Errorf(dataset.ErrNotFound, "share %s (%s) has no pool %s", p.share, p.path, pool)
	case len(found) > 1:
		return "", dataset.Errorf(dataset.ErrConflict,
			"%s all claim to be pool %s: move the copies off the share", strings.Join(found, " and "), pool)
	}
	return found[0], nil
}
