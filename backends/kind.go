package backends

import (
	"context"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Kind is a backend. It opens and makes pools.
type Kind interface {
	// Name is the backend's name in drover.yaml and profiles.yaml.
	Name() string

	// Available returns nil if this host can run the backend. Otherwise it returns an ErrUnsupported that names the
	// missing programs and kernel features, and the command that installs them. Each call examines the host again.
	Available(ctx context.Context) error

	// Open opens the pool that cfg describes.
	//
	// With cfg.Make, Open turns an empty or absent path into a pool with the UUID cfg.ID. Without cfg.Make, Open
	// returns ErrOffline if the path does not contain the pool cfg.ID. If cfg.ID is uuid.Nil, Open accepts any pool.
	//
	// Open returns ErrExists if the path contains something other than a pool. (Without cfg.Make, a directory without a
	// pool is ErrOffline: the disk of the pool may not be mounted.) It returns ErrUnsupported if this backend cannot
	// use the path, and the error says which path it could use. In both cases nothing was changed.
	Open(ctx context.Context, cfg Config) (Pool, error)
}

// Config describes the pool to open or make.
type Config struct {
	ID   uuid.UUID // the expected pool; if uuid.Nil, Make chooses an ID
	Name string
	Path string // absolute and clean; a symlink as its last element is not followed
	// Image, if greater than 0, says that Path is a preallocated image file. Open makes it with this
	// size, or uses the existing one, and mounts it at Mount.
	Image dataset.Size
	Mount string // where the image, or other storage that the pool mounts itself, is mounted
	// MountRoot is the directory in which the agent mounts datasets, by their UUIDs. A copy of such a mount in another
	// mount namespace is no use by itself. If MountRoot is empty, every mount is a use.
	MountRoot string
	// Devices are absolute paths of block devices. With Make, the pool's storage is made of them, and a device that is
	// not empty is refused. Without Make, the pool is searched for on these devices first, and then on all others,
	// because the name of a device can change at a boot. The data that the pool wrote on its devices identifies it.
	Devices []string
	Make    bool
	Keys    Keys // data keys of encrypted datasets; if nil, none of these datasets can be opened
}

// MountPath returns the path on which the agent mounts a dataset, or "" if it is not known.
func (c Config) MountPath(id uuid.UUID) string {
	if c.MountRoot == "" {
		return ""
	}
	return filepath.Join(c.MountRoot, id.String())
}

// Keys provides the data keys of datasets. Create, Attach and Resize of an encrypted dataset need its
// key, and so does a Clone of another size. Methods that only inspect, copy or destroy a dataset do not.
type Keys interface {
	// DataKey returns the data key of an encrypted dataset. d is the record in the pool. A newer record can exist
	// elsewhere. DataKey returns ErrForbidden if this host lacks the operator's key that wraps the data key. The error
	// names the operator's key and the remedy.
	DataKey(ctx context.Context, d dataset.Dataset) ([]byte, error)
}

// ExistingPoolKind is a Kind that can open an existing pool on hosts where it cannot make a new one.
type ExistingPoolKind interface {
	Kind
	// CheckOpen returns nil if this host can open an existing pool of the kind. Otherwise it fails as Available does.
	// The host may lack programs and kernel features that only a new pool or dataset needs. Info.Missing names them.
	CheckOpen(ctx context.Context) error
}

// CheckOpen returns an error if this host cannot open an existing pool of the kind. It calls the method CheckOpen if k
// is an ExistingPoolKind, and otherwise Available.
func CheckOpen(ctx context.Context, k Kind) error {
	if s, ok := k.(ExistingPoolKind); ok {
		return s.CheckOpen(ctx)
	}
	return k.Available(ctx)
}

// BoundedKind is a Kind with limits that apply to each of its pools, on every host. Its methods are pure.
type BoundedKind interface {
	Kind
	// MaxCapabilities returns the capabilities of a pool on a host that lacks nothing.
	MaxCapabilities() dataset.Capabilities
	// CheckSize returns ErrUnsupported if no dataset with the filesystem fs can have this size in any pool of the kind.
	// Create fails for the same sizes. If fs is empty, CheckSize checks the default filesystem for this size.
	CheckSize(fs string, size dataset.Size) error
}

// BlockDeviceKind is a Kind that can make pools of block devices.
type BlockDeviceKind interface {
	Kind
	// PathOf returns the Path of such a pool from its name and Mount. It is used if the operator gives
	// no path.
	PathOf(name, mount string) string
}

// SeparateFolderKind is a Kind whose pools keep their records in a folder outside of the pool's path. A trial pool
// (package trialdir) is made in that folder. The folder and the pool have different free space.
type SeparateFolderKind interface {
	Kind
	// SeparateFolder returns the folder with the records of the pool at path, which is open on this host.
	SeparateFolder(path string) (string, error)
}
