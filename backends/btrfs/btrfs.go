// Package btrfs keeps datasets on an existing btrfs. The head of a dataset and each snapshot is a subvolume, and a
// mounted dataset is a bind mount of its head. Snapshots and clones share blocks and are taken while the dataset is
// written to.
//
// A pool is a directory in the layout of package shelf. The trees of heads and snapshots in the folder of a dataset
// (see package shelf) are subvolumes. The size in current.json is the limit that the quota of the head must have.
//
// # Sizes
//
// A size is a limit of the filesystem's quotas, if they are on (quota.go). A clone and a restore set the limit,
// because a new subvolume has the limit of its source. Opening the pool corrects each limit that differs from the
// recorded size, because limits are lost when somebody switches quotas off and on.
//
// # Durability
//
// A new subvolume becomes durable with a commit of the filesystem. Drover waits for the commit before it writes the
// record that names the subvolume. A limit that a power cut undid is set when the pool is opened.
//
// # Subvolumes of containers
//
// A process that may write to a volume can make subvolumes in it (ioctl(2), no privilege needed). A snapshot or clone
// would leave them out. So both are refused, with an error that says so. When the tree that contains the subvolumes is
// removed, they are destroyed too.
//
// # State
//
// Package cmd/drover/internal/settings registers the backend, and agent/agenttest does so for tests. The agent opens a
// [Pool] and calls it by the contract of package backends. A Pool opens the folder of the dataset that it works on,
// which claims the dataset (package shelf). Everything about datasets is read from the folder. The state in memory is
// the attachments (package bindmount), the time of the next recount of the quotas and the calls that destroy subvolumes
// (counters.go), and the commits that callers share (btrfsctl.Commits). Each is protected by a mutex. The claim only
// excludes Reap: the caller of backends.Pool prevents other concurrent changes of the dataset.
//
// Where to change what: limits of subvolumes are in quota.go, the counters of destroyed ones in counters.go, and how
// subvolumes are opened, copied and destroyed in subvolume.go. The other files have the operations on datasets.
package btrfs

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/disk"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/steps"
)

// Name is the backend's name in drover.yaml and profiles.yaml.
const Name = "btrfs"

// Backend implements backends.Kind with btrfs. It is safe for concurrent use.
type Backend struct {
	step  func(string) // called between two actions, for tests
	clock clock.Clock
}

var (
	_ backends.BlockDeviceKind = (*Backend)(nil)
	_ backends.BoundedKind     = (*Backend)(nil)
	_ backends.Pool            = (*Pool)(nil)
	_ backends.StorageRemover  = (*Pool)(nil)
	_ backends.Clearer         = (*Pool)(nil)
	_ backends.Copier          = (*Pool)(nil)
	_ backends.Compressor      = (*Pool)(nil)
	_ backends.Resizer         = (*sizedPool)(nil)
)

// New returns the backend.
func New() *Backend { return &Backend{step: steps.At, clock: clock.System{}} }

// Name implements backends.Kind.
func (*Backend) Name() string { return Name }

// MaxCapabilities implements backends.BoundedKind.
func (*Backend) MaxCapabilities() dataset.Capabilities {
	return dataset.Capabilities{
		EnforcesSize: true, OnlineGrow: true, Shrink: true, CountsWritten: true, KnowsUsed: true,
		InstantSnapshot: true, ConstantSnapshot: true, CloneIndependent: true, Delta: true,
	}
}

// CheckSize implements backends.BoundedKind.
func (*Backend) CheckSize(_ string, size dataset.Size) error {
	if size < minSize {
		return dataset.Errorf(dataset.ErrUnsupported, "%s is too small for a subvolume (at least %s)", size, minSize)
	}
	return nil
}

// Available implements backends.Kind. The backend needs root, and a kernel with btrfs.
func (*Backend) Available(context.Context) error {
	// Unlike reading /proc/filesystems, fsopen(2) loads the module.
	fd, err := unix.Fsopen(Name, unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.EPERM) || os.Geteuid() != 0 {
		return dataset.Errorf(dataset.ErrUnsupported,
			"backend btrfs creates subvolumes and sets limits: run drover as root (CAP_SYS_ADMIN)")
	}
	if err != nil {
		return dataset.Errorf(dataset.ErrUnsupported, "backend btrfs: the kernel does not support btrfs "+
			"(modprobe btrfs): %w",
			err)
	}
	unix.Close(fd)
	return nil
}

// Open implements backends.Kind.
func (b *Backend) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	if cfg.Image != 0 {
		return nil, dataset.Errorf(dataset.ErrUnsupported,
			"backend btrfs stores datasets on a mounted btrfs, not in an image: omit the size")
	}
	p := &Pool{name: cfg.Name, step: b.step}
	var err error
	if len(cfg.Devices) > 0 {
		if p.disk, err = disk.Open(ctx, &run.System{}, cfg, fsctl.Btrfs, nil); err != nil {
			return nil, err
		}
		cfg.ID = p.disk.ID
	}
	if err = p.openOrMake(cfg, b.clock); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if !p.quota.Enabled() {
		return p, nil
	}
	return &sizedPool{p}, nil
}

// PathOf implements backends.BlockDeviceKind.
func (*Backend) PathOf(_, mount string) string { return mount }

// checkPath fails unless a pool can be made at a path. It checks the filesystem. Package shelf checks the content of
// the path.
func checkPath(path string) error {
	if !filepath.IsAbs(path) {
		return nil
	}
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		path = filepath.Dir(path)
		info, err = os.Stat(path)
	}
	if err != nil || !info.IsDir() {
		return nil
	}
	return checkFilesystem(path)
}

func checkFilesystem(path string) error {
	kind, err := fsctl.KindOf(path)
	if err == nil && kind != Name {
		err = dataset.Errorf(dataset.ErrUnsupported,
			"%s is on %s: backend btrfs needs a directory on a mounted btrfs, or a device to format (drover pool "+
				"create NAME --backend btrfs --device DEVICE)", path, kind)
	}
	return err
}
