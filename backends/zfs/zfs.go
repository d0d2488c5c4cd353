// Package zfs is the backend for hosts that have a zpool. A dataset is a ZFS filesystem, and its size is a refquota.
// Snapshots and clones are those of ZFS.
//
// A pool is a directory on a mounted ZFS filesystem, or the whole filesystem. That filesystem is called the parent
// filesystem. The directory contains the records (package shelf), and filesystems below the parent filesystem contain
// the data:
//
//	PARENT                                     the filesystem that contains the pool's directory
//	PARENT/drover-<pool>                       everything of the pool; never mounted
//	PARENT/drover-<pool>/<dataset>             one dataset; never mounted
//	PARENT/drover-<pool>/<dataset>/head        what containers see, until a restore
//	PARENT/drover-<pool>/<dataset>/head-<uuid> made by a restore (<uuid> is the snapshot that it kept), or by
//	                                           receiving or promoting a snapshot (<uuid> is random): see heads.go
//	…/head@drover-<snapshot>                   a snapshot
//	…/head@drover-clone-<dataset>              the origin of a clone of a head
//	PARENT/drover-<pool>/deleted/<uuid>        a deleted dataset that clones depend on
//
// A folder of the shelf has beside the record:
//
//	current.json             which filesystem is the head; if absent: "head", or none in a copy
//	snapshot-<uuid>.json     a snapshot's record, and the filesystem of the snapshot; written last
//	part, part.json          of a copy: the received part of a stream (stream.Spool)
//
// Records and data are in one zpool, so they are imported together on another host. Records are files rather than user
// properties, because a property is limited to 8 KiB (1 KiB in old pools), is passed as an argument of a command, and
// cannot be replaced atomically together with another one.
//
// # Crashes
//
// A folder is made before its filesystems and removed after them. A snapshot's record is written after the snapshot and
// removed before it. So a crash leaves a filesystem or a snapshot with a name of Drover that no record names. Reap
// destroys these one by one by name, never with -r, -R or -f. Objects that Drover did not name are never touched.
//
// # Ghosts
//
// ZFS keeps a snapshot as long as it has clones. A deleted snapshot with clones loses its record at once, and is
// destroyed with its last clone. A deleted dataset with such snapshots is renamed to deleted/ in one step, and
// destroyed in the same way. Drover never runs zfs promote, so a snapshot always belongs to the filesystem that it was
// taken of.
//
// # State
//
// Package cmd/drover/internal/settings registers the backend, and agent/agenttest does so for tests. The agent opens a
// [Pool] and calls it by the contract of package backends. A pool remembers attachments, staging mounts, loaded keys
// and the last usage listing, each protected by a mutex, and the size of the parent filesystem as an atomic number.
// Everything else is read from ZFS and the shelf. An open folder claims its dataset (package shelf), which only
// excludes Reap. The caller of backends.Pool prevents other concurrent changes of the dataset.
//
// Where to change what: how zfs(8) is run, and which of its errors are known, is in tool.go. Zpools that Drover makes
// on devices are in device.go, ghosts in remover.go, copies in heads.go and transfer.go, and encryption in keys.go.
// Sizes and usage are in maker.go and space.go.
package zfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
)

// Name is the backend's name in drover.yaml and profiles.yaml.
const Name = "zfs"

const (
	program = "zfs"

	// defaultSize is the size of a dataset if neither its profile nor the request names one.
	defaultSize = 10 * dataset.GiB
	minSize     = 1 * dataset.MiB

	// maxFilesystemName is the maximum length of the name of the parent filesystem. ZFS allows names of 255 characters.
	// The constant leaves room for the longest name that Drover makes below the parent filesystem.
	maxFilesystemName = 255 - len("/drover-/deleted//head-@drover-clone-") - 4*36

	poolProperty = "drover:pool"
)

// Backend implements backends.Kind with ZFS. It is safe for concurrent use.
type Backend struct {
	runner run.Runner
	clock  clock.Clock
}

var (
	_ backends.BoundedKind      = (*Backend)(nil)
	_ backends.Pool             = (*Pool)(nil)
	_ backends.Copier           = (*Pool)(nil)
	_ backends.Resizer          = (*Pool)(nil)
	_ backends.StorageRemover   = (*Pool)(nil)
	_ backends.Trimmer          = (*Pool)(nil)
	_ backends.SnapshotMeasurer = (*Pool)(nil)
	_ backends.Compressor       = (*Pool)(nil)
)

// New returns the backend. It runs all its commands through runner.
func New(runner run.Runner, clock clock.Clock) *Backend {
	return &Backend{run.WithoutSync(runner), clock}
}

// Name implements backends.Kind.
func (b *Backend) Name() string { return Name }

// Available implements backends.Kind. It checks that zfs(8) exists, and that its kernel module or its server runs. It
// runs no command, because agents call it often.
func (b *Backend) Available(context.Context) error {
	if _, err := run.LookPath(program); err != nil {
		return dataset.Errorf(dataset.ErrUnsupported,
			"backend zfs needs zfs(8) and its kernel module (Debian, from contrib: apt-get install "+
				"zfsutils-linux zfs-dkms)")
	}
	for _, end := range []string{"/dev/zfs", fuseSocket} {
		if _, err := os.Stat(end); err == nil {
			return nil
		}
	}
	return dataset.Errorf(dataset.ErrUnsupported, "backend zfs: the kernel does not support ZFS (no /dev/zfs): "+
		"modprobe zfs")
}

// Open implements backends.Kind.
func (b *Backend) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	switch {
	case cfg.Image != 0:
		return nil, dataset.Errorf(dataset.ErrUnsupported,
			"backend zfs stores datasets in a zpool, not in an image: omit the size")
	case !filepath.IsAbs(cfg.Path) || filepath.Clean(cfg.Path) != cfg.Path:
		return nil, dataset.Errorf(dataset.ErrInvalid, "bad pool path %q: expected an absolute path without . and ..",
			cfg.Path)
	}
	if len(cfg.Devices) == 0 {
		return b.open(ctx, cfg, nil)
	}
	zpool, err := b.openOwn(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("pool %s: %w", cfg.Name, err)
	}
	cfg.ID = zpool.id
	p, err := b.open(ctx, cfg, zpool)
	if err != nil {
		return nil, errors.Join(err, zpool.Close())
	}
	return p, nil
}

func (b *Backend) open(ctx context.Context, cfg backends.Config, zpool *ownPool) (backends.Pool, error) {
	if cfg.Make {
		if err := checkPath(cfg.Path); err != nil {
			return nil, err
		}
	}
	s, err := shelf.Open(cfg, Name)
	if err != nil {
		return nil, err
	}
	if err := s.KeepCopies(); err != nil {
		return nil, err
	}
	home, err := poolFilesystemOf(cfg.Path)
	if err != nil {
		return nil, err
	}
	p := &Pool{
		Shelf: s, name: cfg.Name, tool: tool{b.runner}, fs: home, vdevs: zpool, keys: datasetKeys{source: cfg.Keys},
		attachments: attachments{staged: map[uuid.UUID]bool{}, mountPath: cfg.MountPath},
		listing:     listing{clock: b.clock},
	}
	s.Outside, s.CheckUnused = p.removeObjects, p.checkUnused
	if err := p.prepareFilesystem(ctx, cfg.Make); err != nil {
		return nil, fmt.Errorf("pool at %s: %w", cfg.Path, err)
	}
	return p, nil
}

// checkPath returns an error unless a new pool can be made at path. It checks the filesystem. Package shelf checks the
// content of the path.
func checkPath(path string) error {
	for _, dir := range []string{path, filepath.Dir(path)} {
		info, err := os.Lstat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || !info.IsDir() {
			return err
		}
		_, err = poolFilesystemOf(dir)
		return err
	}
	return nil
}

// poolFilesystem is the parent filesystem: the mounted filesystem that contains the pool's directory.
type poolFilesystem struct {
	name string
	fuse bool // served by zfs-fuse
}

// poolFilesystemOf returns the filesystem that contains path. It returns dataset.ErrUnsupported if that is not a ZFS
// filesystem.
func poolFilesystemOf(path string) (poolFilesystem, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE, &st); err != nil {
		return poolFilesystem{}, fmt.Errorf("stat %s: %w", path, err)
	}
	table, err := mount.Table()
	if err != nil {
		return poolFilesystem{}, err
	}
	mounts := table.Of(int(st.Dev_major), int(st.Dev_minor))
	switch {
	case len(mounts) == 0 || !isZFS(mounts[0]):
		kind := "an unknown filesystem"
		if len(mounts) > 0 {
			kind = mounts[0].FSType
		}
		return poolFilesystem{}, dataset.Errorf(dataset.ErrUnsupported,
			"%s is on %s: backend zfs needs a directory on a ZFS filesystem (zfs create -o mountpoint=%s "+
				"POOL/NAME)", path, kind, path)
	case len(mounts[0].Source) > maxFilesystemName:
		return poolFilesystem{}, dataset.Errorf(dataset.ErrUnsupported,
			"the name %s is too long to have datasets below it: expected at most %d "+
				"characters", mounts[0].Source, maxFilesystemName)
	}
	return poolFilesystem{mounts[0].Source, mounts[0].FSType == fuseType}, nil
}

// Pool is an open pool. It is safe for concurrent use.
type Pool struct {
	*shelf.Shelf
	name        string // the pool's name, for errors
	tool        tool
	fs          poolFilesystem
	vdevs       *ownPool // nil if the operator made the zpool
	keys        datasetKeys
	attachments attachments
	listing     listing
	total       atomic.Int64 // size of the parent filesystem in bytes, used plus free, at the last call of measure
}

// prepareFilesystem checks that the filesystem top belongs to the pool. If create is set and the filesystem is absent,
// it makes the filesystem. It also finds out whether the pool can encrypt, which keys are loaded, and the size of the
// pool.
func (p *Pool) prepareFilesystem(ctx context.Context, create bool) error {
	at := p.top()
	id, err := p.tool.value(ctx, poolProperty, at)
	if errors.Is(err, errAbsent) {
		entries, lErr := p.Shelf.List(func(*shelf.Folder, *backends.Entry) {})
		if lErr != nil {
			return lErr
		}
		if !create || len(entries) > 0 {
			return dataset.Errorf(dataset.ErrOffline,
				"its records are here, but its filesystem %s is not: were they copied without it, or was it "+
					"renamed?", at)
		}
		id = p.ID().String()
		options := []string{
			"create", "-o", "mountpoint=legacy", "-o", "canmount=off",
			"-o", "com.sun:auto-snapshot=false", "-o", poolProperty + "=" + id,
		}
		// POSIX ACLs, stored efficiently in the inode.
		err = p.tool.zfs(ctx, append(options, "-o", "acltype=posixacl", "-o", "xattr=sa", at)...)
		if errors.Is(err, errNoProperty) {
			err = p.tool.zfs(ctx, append(options, at)...) // zfs-fuse
		}
	}
	if err != nil {
		return err
	}
	if id != p.ID().String() {
		return dataset.Errorf(dataset.ErrExists, "%s exists, and drover did not create it (its property %s is %q)",
			at, poolProperty, id)
	}
	err = p.tool.zfs(ctx, "create", "-o", "canmount=off", p.deletedRoot())
	if err != nil && !errors.Is(err, errTaken) {
		return err
	}
	if p.keys.problem, err = p.tool.encryptionProblem(ctx, p.fs); err != nil {
		return err
	}
	return errors.Join(p.findLoaded(ctx), p.measure(ctx))
}

// Trim implements backends.Trimmer. It runs zpool trim, because ZFS does not support the ioctl FITRIM.
func (p *Pool) Trim(ctx context.Context) (dataset.Size, error) {
	zpool, _, _ := strings.Cut(p.fs.name, "/")
	var err error
	for _, args := range [][]string{{"trim", "-w", zpool}, {"trim", zpool}} { // before 2.0 there is no -w
		_, err = p.tool.runner.Run(ctx, run.Command{Name: zpoolProgram, Args: args, Timeout: trimLimit})
		if err == nil || !strings.Contains(err.Error(), "invalid option") {
			break
		}
	}
	if err != nil && strings.Contains(err.Error(), noTrim) {
		err = fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	return 0, err
}

// Info implements backends.Pool.
func (p *Pool) Info() backends.Info {
	note, lag := "ZFS filesystems below "+p.top()+": snapshots and clones by zfs"+p.vdevs.note(), usedLag
	if p.fs.fuse {
		lag = usedLagFuse
		note += "; through zfs-fuse, which is for tests"
	}
	caps := (*Backend)(nil).MaxCapabilities()
	caps.Encryption = p.encrypts()
	return backends.Info{
		Capabilities: caps,
		Missing:      p.missing(), Note: note, Path: p.Shelf.Path(), DefaultSize: defaultSize, UsedLag: lag,
	}
}

// Status implements backends.Pool. The size is from the last time that the pool was opened or listed.
func (p *Pool) Status(context.Context) dataset.PoolStatus { return p.status() }

// Close implements backends.Pool.
func (p *Pool) Close() error {
	p.unloadIdle()
	return errors.Join(p.unstageAll(), p.vdevs.Close())
}

// Commit implements backends.Pool.
func (p *Pool) Commit(_ context.Context, id uuid.UUID) error {
	return p.Shelf.CommitAny(id, p.commitCopy)
}

// top returns the name of the filesystem below which all data of the pool is stored.
func (p *Pool) top() string { return p.fs.name + "/drover-" + p.Shelf.ID().String() }

// deletedRoot returns the filesystem below which deleted datasets wait until their clones are deleted.
func (p *Pool) deletedRoot() string { return p.top() + "/deleted" }

// root returns the filesystem of a dataset. Its heads are below it.
func (p *Pool) root(id uuid.UUID) string { return p.top() + "/" + id.String() }

// trees groups the objects of a pool by dataset. The key of a ghost is "deleted/" and its name.
func (p *Pool) trees(all []object) map[string][]object {
	trees := map[string][]object{}
	for _, o := range all {
		fs, _ := o.snapshotOf()
		rel, ok := strings.CutPrefix(fs, p.top()+"/")
		if !ok || rel == "deleted" {
			continue
		}
		name, below, _ := strings.Cut(rel, "/")
		if name == "deleted" {
			ghost, _, _ := strings.Cut(below, "/")
			name += "/" + ghost
		}
		trees[name] = append(trees[name], o)
	}
	return trees
}

// dataset parses the name of a head, and returns the dataset and the last part of the name.
func (p *Pool) dataset(fs string) (id uuid.UUID, head string, err error) {
	rel, ok := strings.CutPrefix(fs, p.top()+"/")
	text, head, hasHead := strings.Cut(rel, "/")
	if !ok || !hasHead || !isID(text) || !isHead(head) {
		return id, "", fmt.Errorf("%s is not a head of a dataset of this pool", fs)
	}
	id, err = uuid.Parse(text)
	return id, head, err
}

// headOf returns the filesystem that is the head of a dataset. It returns dataset.ErrCorrupt if there is none.
func (p *Pool) headOf(ctx context.Context, f *shelf.Folder) (object, error) {
	name, err := headName(f.Dir, f.ID)
	if err == nil && name == "" {
		err = dataset.Errorf(dataset.ErrCorrupt, "dataset %s: %s says that it is a copy, but it is not", f.ID,
			currentName)
	}
	if err != nil {
		return object{}, err
	}
	o, err := p.tool.object(ctx, p.root(f.ID)+"/"+name)
	if errors.Is(err, errAbsent) || (err == nil && o.kind != kindFilesystem) {
		return object{}, dataset.Errorf(dataset.ErrCorrupt, "dataset %s: its filesystem %s/%s is missing", f.ID,
			p.root(f.ID), name)
	}
	return o, err
}

func (p *Pool) snapshotName(ds uuid.UUID, fs string, id uuid.UUID) string {
	return p.root(ds) + "/" + fs + "@" + snapPrefix + id.String()
}
