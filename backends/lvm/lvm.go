// Package lvm is the backend for hosts that have LVM, or a disk for it. A dataset is a thin volume with a filesystem.
// Snapshots and clones are thin snapshots.
//
// A pool is a volume group, /dev/VG. Drover either makes the group, or uses the free space of a group that has other
// volumes too:
//
//	VG                  tagged drover.pool=<uuid>
//	VG/drover_records   an ext4 with the records (package shelf), which Open mounts
//	VG/drover_pool      the thin pool
//	VG/drover_<hex>     a head or a snapshot, tagged drover and drover.dataset=<uuid>
//
// So the records move with the disk. A folder of the shelf has a file for each volume of the dataset, which contains
// the name of the volume. These files are head, snapshot-<uuid> and, after a restore, head-<uuid>. Package shelf calls
// them trees. As in other backends with trees, records say which tree is the head, and which snapshots exist.
//
// # Crashes
//
// The name of a volume is made of a new UUID. The name is written to the disk before the volume is made, and removed
// after the volume is removed. So a crash leaves a name without a volume, or a volume that is neither a head nor a
// snapshot according to the records. Reap removes both. A volume is only removed if its name was recorded in the pool,
// it has Drover's tag, and it is in Drover's thin pool. A volume with the tag but without a recorded name is listed and
// left alone. A command of lvm(8) that changes something is never killed, because the volumes that it had suspended
// would stay suspended.
//
// # Activation
//
// A head is active from its first use (Create, Attach or Resize) until the host restarts or a restore replaces the
// head. Snapshots are never activated, not even to read their usage. LVM freezes the mounted filesystem of a head while
// it takes a snapshot of the head, unless the dataset is encrypted (encryption.go).
//
// # State
//
// Package cmd/drover/internal/settings registers the backend. The agent opens a [Pool] and calls it by the contract of
// package backends. A pool keeps the counts of attachments and the remembered usage of inactive volumes, each
// protected by a mutex. Only one command of lvm(8) runs at a time: the type turn (tool.go) ensures that with a
// channel. A turn also remembers which command has exceeded its time limit, protected by a mutex, and whether a command
// has failed, in an atomic flag. Everything else is read from LVM and the shelf. An open folder claims its dataset
// (package shelf), which only excludes Reap. The caller of backends.Pool prevents other concurrent changes of the
// dataset.
//
// Where to change what: which volumes a new pool has, and their sizes, is in opener.go. How lvm(8) is run, and which of
// its errors are known, is in tool.go. The names of volumes and the files that record them are in maker.go (link). When
// the pool counts as full is in space.go.
package lvm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/dm"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/steps"
)

// Name is the backend's name in drover.yaml and profiles.yaml.
const Name = "lvm"

const (
	recordsName = "drover_records"
	poolName    = "drover_pool"
	namePrefix  = "drover_"

	ourTag     = "drover"
	poolTag    = "drover.pool="
	datasetTag = "drover.dataset="

	// defaultSize is the size of a dataset if neither its profile nor the request names one.
	defaultSize = 10 * dataset.GiB
)

// Backend implements backends.Kind with LVM. It is safe for concurrent use.
type Backend struct {
	runner run.Runner
	step   func(string) // called between two actions, for tests
}

var (
	_ backends.BlockDeviceKind    = (*Backend)(nil)
	_ backends.BoundedKind        = (*Backend)(nil)
	_ backends.ExistingPoolKind   = (*Backend)(nil)
	_ backends.SeparateFolderKind = (*Backend)(nil)
	_ backends.Pool               = (*Pool)(nil)
	_ backends.IdleChecker        = (*Pool)(nil)
	_ backends.Serializer         = (*Pool)(nil)
	_ backends.Resizer            = (*Pool)(nil)
	_ backends.Formatter          = (*Pool)(nil)
)

// New returns the backend; all its commands go through runner.
func New(runner run.Runner) *Backend {
	return &Backend{runner: run.WithoutSync(runner), step: steps.At}
}

// Name implements backends.Kind.
func (b *Backend) Name() string { return Name }

// MaxCapabilities implements backends.BoundedKind.
func (b *Backend) MaxCapabilities() dataset.Capabilities {
	return dataset.Capabilities{
		EnforcesSize: true, InstantSnapshot: true, ConstantSnapshot: true, CloneIndependent: true, OnlineGrow: true,
		OwnFilesystem: true, OwnDevice: true, Filesystems: []string{mkfs.XFS, mkfs.Ext4}, Encryption: true,
	}
}

// CheckSize implements backends.BoundedKind.
func (b *Backend) CheckSize(fs string, size dataset.Size) error {
	return mkfs.Request{Chosen: fs, Filesystem: cmp.Or(fs, ext4), Size: size}.Check()
}

// PathOf implements backends.BlockDeviceKind. It returns the path of a volume group that is named after the pool.
func (b *Backend) PathOf(name, _ string) string { return "/dev/drover-" + name }

// Available implements backends.Kind. The backend needs LVM, LVM's tools for thin pools, and a kernel with thin pools.
func (b *Backend) Available(ctx context.Context) error {
	if err := b.CheckOpen(ctx); err != nil {
		return err
	}
	if err := checkTools(); err != nil {
		return dataset.Errorf(dataset.ErrUnsupported, "backend lvm: %w", err)
	}
	host := mkfs.DetectHost()
	return host.CheckAny(host.Makes, "backend lvm: no filesystem for the volumes")
}

// checkTools fails if the host lacks the tool with which LVM checks a thin pool before it activates the pool. LVM
// itself only prints a warning and continues. Drover checks for the tool when a pool is created, because the operator
// is present then and can install it.
func checkTools() error {
	if _, err := run.LookPath("thin_check"); err != nil {
		return errors.New("checking a thin pool needs thin_check (apt-get install thin-provisioning-tools)")
	}
	return nil
}

// CheckOpen implements backends.ExistingPoolKind. An existing pool needs LVM, and a kernel with thin pools. Only a new
// volume needs mkfs. CheckOpen reports missing kernel features first, because no package provides them.
func (b *Backend) CheckOpen(context.Context) error {
	_, missing := run.LookPath(program)
	problem := checkKernel()
	switch {
	case missing == nil:
		return problem
	case problem != nil:
		return fmt.Errorf("%w; it also needs %s (apt-get install lvm2 thin-provisioning-tools)", problem, program)
	}
	return dataset.Errorf(dataset.ErrUnsupported,
		"backend lvm needs %s (apt-get install lvm2 thin-provisioning-tools)", program)
}

// checkKernel fails if the kernel has no thin pools, or if this process cannot use them.
func checkKernel() error {
	switch err := dm.HasTarget("thin-pool"); {
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
		return dataset.Errorf(dataset.ErrUnsupported, "backend lvm creates volumes: run drover as root (CAP_SYS_ADMIN)")
	case err != nil:
		return dataset.Errorf(dataset.ErrUnsupported,
			"backend lvm: the kernel does not support thin pools (modprobe dm-thin-pool): %w", err)
	}
	return nil
}

// groupName matches the valid names of a volume group. They have LVM's characters. They are short enough for the device
// mapper, whose names consist of the name of the group and that of a volume.
var groupName = regexp.MustCompile(`^[A-Za-z0-9_+][A-Za-z0-9_.+-]{0,59}$`)

// Open implements backends.Kind.
func (b *Backend) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	if cfg.Mount == "" && len(cfg.Devices) == 0 && cfg.Image == 0 && filepath.IsAbs(cfg.Path) && inSandbox(cfg.Path) {
		p, err := b.openSandbox(ctx, cfg)
		if err != nil {
			return nil, fmt.Errorf("pool %s at %s: %w", cfg.Name, cfg.Path, err)
		}
		return p, nil
	}
	vg, err := configuredGroup(cfg)
	if err != nil {
		return nil, err
	}
	p := b.pool(cfg, vg)
	if err := p.open(ctx, cfg); err != nil {
		return nil, fmt.Errorf("pool %s at %s: %w", cfg.Name, cfg.Path, err)
	}
	return p, nil
}

// pool returns the pool in a volume group, before it is opened.
func (b *Backend) pool(cfg backends.Config, vg string) *Pool {
	return &Pool{
		name: cfg.Name, path: cfg.Path, vg: vg, ownsGroup: len(cfg.Devices) > 0, tool: newTool(b.runner),
		runner: b.runner, step: b.step, keys: cfg.Keys, inactiveUsage: map[string]dataset.Size{},
	}
}

// configuredGroup returns the name of the volume group that cfg names.
func configuredGroup(cfg backends.Config) (string, error) {
	vg, ok := strings.CutPrefix(cfg.Path, "/dev/")
	switch {
	case cfg.Image != 0:
		return "", dataset.Errorf(dataset.ErrUnsupported,
			"backend lvm stores datasets in a volume group, not in an image: omit the size")
	case !filepath.IsAbs(cfg.Path) || filepath.Clean(cfg.Path) != cfg.Path:
		return "", dataset.Errorf(dataset.ErrInvalid, "bad pool path %q: expected an absolute path without . and ..",
			cfg.Path)
	case !ok || !groupName.MatchString(vg) || len(dm.Mangle(vg)) > 70:
		return "", dataset.Errorf(dataset.ErrUnsupported,
			"%s is not the path of a volume group: expected /dev/VG (vgs lists them)", cfg.Path)
	case cfg.Mount == "":
		return "", dataset.Errorf(dataset.ErrInvalid, "a volume group needs a directory where its records volume "+
			"is mounted")
	}
	return vg, nil
}

// Pool is an open pool. It is safe for concurrent use.
type Pool struct {
	*shelf.Shelf
	name, path string // path: /dev/VG
	vg         string
	ownsGroup  bool // its volume group was made for it
	inSandbox  bool // its records are in a folder beside those of another pool
	tool       tool
	runner     run.Runner
	step       func(string)
	keys       backends.Keys
	extent     dataset.Size
	chunk      dataset.Size
	info       backends.Info
	attached   backends.Attachments

	usageMu       sync.Mutex
	inactiveUsage map[string]dataset.Size // remembered usage of inactive volumes, by name
}

// declare computes the value that Info returns, and removes the unused mappings that an earlier run left.
func (p *Pool) declare() error {
	host := mkfs.DetectHost()
	caps := (*Backend)(nil).MaxCapabilities()
	if err := host.Declare(&caps, "no filesystem for the volumes"); err != nil {
		return err
	}
	seals := crypt.Available()
	caps.Encryption = seals == nil
	p.info = backends.Info{
		Capabilities: caps,
		Missing:      host.MissingWith(checkTools(), seals),
		Note: fmt.Sprintf("thin volumes in %s/%s, blocks of %s: snapshots and clones by LVM", p.vg,
			poolName, p.chunk),
		Path: p.Shelf.Path(), DefaultSize: defaultSize, Exact: true,
	}
	return p.dropUnused()
}

// Info implements backends.Pool.
func (p *Pool) Info() backends.Info {
	i := p.info
	i.Capabilities.Filesystems = slices.Clone(i.Capabilities.Filesystems)
	return i
}

// Filesystem implements backends.Formatter.
func (p *Pool) Filesystem(size dataset.Size) string {
	fs, _ := mkfs.Choose("", size, p.info.Capabilities.Filesystems) // if there is none, Create reports why
	return fs
}

// Status implements backends.Pool.
func (p *Pool) Status(ctx context.Context) dataset.PoolStatus { return p.status(ctx) }

// Used implements backends.Pool. The kernel counts the blocks of an active volume. The usage of an inactive volume is
// read from the pool's metadata, without activating the volume.
func (p *Pool) Used(ctx context.Context, id uuid.UUID) (dataset.Size, error) {
	f, err := p.Shelf.FindDataset(id)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	name, err := headOf(f)
	if err != nil {
		return 0, err
	}
	target, err := dm.Status(p.device(name))
	if errors.Is(err, dm.ErrAbsent) {
		return p.usedInactive(ctx, name)
	}
	if err != nil {
		return 0, err
	}
	var sectors int64
	if n, _ := fmt.Sscanf(target.Status, "%d", &sectors); n != 1 || target.Type != "thin" {
		return 0, fmt.Errorf("the device mapper reports %q for volume %s", target.Type+" "+target.Status, p.ref(name))
	}
	return dataset.Size(sectors) * 512, nil
}

// ref returns the name of a volume as lvm(8) expects it.
func (p *Pool) ref(name string) string { return p.vg + "/" + name }

// device is the device mapper's name of a volume.
func (p *Pool) device(name string) string { return dm.Mangle(p.vg, name) }

// roundUp rounds a size up to whole extents.
func (p *Pool) roundUp(size dataset.Size) dataset.Size {
	return (size + p.extent - 1) / p.extent * p.extent
}
