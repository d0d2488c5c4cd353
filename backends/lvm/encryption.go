package lvm

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/dm"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/run"
)

// An encrypted dataset has a LUKS2 container in its volume, with the filesystem in the container. So snapshots and
// clones are ciphertext, and taking them needs no key. LVM does not see that filesystem and does not freeze it for a
// snapshot. The agent freezes it instead.

// mapping returns the name of the device that decrypts a volume. The name contains a part of the pool's UUID, because
// two pools of a host can have volumes with the same name, for example after their disk was copied.
func (p *Pool) mapping(volume string) string {
	return "drover-" + strings.TrimPrefix(volume, namePrefix) + p.mappingSuffix()
}

func (p *Pool) mappingSuffix() string { return "-" + p.Shelf.ID().String()[:8] }

// dropUnused removes the unused mappings of the pool, and waits until they are removed.
func (p *Pool) dropUnused() error { return crypt.RemoveUnused(p.mappingSuffix()) }

// abandonMappings removes the mappings of volumes whose content is not needed any more. If a command of a killed
// process still uses a mapping, the kernel removes the mapping when the command ends.
func (p *Pool) abandonMappings(volumes []string) error {
	for _, name := range volumes {
		if err := dm.Drop(p.mapping(name)); err != nil {
			return err
		}
	}
	return nil
}

func (p *Pool) keyOf(ctx context.Context, d dataset.Dataset) ([]byte, error) {
	if err := crypt.Available(); err != nil {
		return nil, err
	}
	if p.keys == nil {
		return nil, dataset.Errorf(dataset.ErrForbidden, "it is encrypted, and no keys are available")
	}
	return p.keys.DataKey(ctx, d)
}

// overhead returns how many bytes of a dataset's volume are not available to its filesystem.
func overhead(d dataset.Dataset) dataset.Size {
	if d.Encryption == nil {
		return 0
	}
	return crypt.Overhead
}

// sameKey fails with ErrInvalid unless the dataset in the folder f and the dataset d are encrypted with the same data
// key, or neither is encrypted. It activates no volume.
func sameKey(f *shelf.Folder, d dataset.Dataset) error {
	record, err := f.ReadRecord()
	switch {
	case err != nil:
		return err
	case (record.Encryption != nil) != (d.Encryption != nil):
		return dataset.Errorf(dataset.ErrInvalid, "either it or its source is encrypted, but not both")
	case record.Encryption != nil && record.Encryption.ID != d.Encryption.ID:
		return dataset.Errorf(dataset.ErrInvalid,
			"its source is encrypted with data key %s, and its record has %s", record.Encryption.ID,
			d.Encryption.ID)
	}
	return nil
}

// encrypt makes a container on the device of a new volume, and opens it.
func (p *Pool) encrypt(ctx context.Context, volume, node string, d dataset.Dataset, key []byte) (
	*crypt.Device, error,
) {
	tool := crypt.New(p.runner)
	if err := tool.Format(ctx, node, d.Encryption.ID, key); err != nil {
		return nil, err
	}
	p.step("lvm.volume.encrypted")
	return tool.Open(ctx, node, p.mapping(volume), key)
}

// namedDevice is a device with a name that stays valid after a restart of the host.
type namedDevice struct {
	io.ReaderAt
	name string
}

func (n namedDevice) Name() string { return n.name }

// openContainer opens the container on the device of a head. If the device has no container and the record does not say
// that the dataset is encrypted, openContainer returns nil. If the record says so and the device has no container,
// openContainer refuses the device, because Drover did not make the unencrypted filesystem on it.
func (p *Pool) openContainer(ctx context.Context, f *shelf.Folder, volume string, node *os.File) (
	open *crypt.Device, key []byte, err error) {
	disk := namedDevice{node, "/dev/mapper/" + p.device(volume)}
	_, encrypted, err := crypt.Header(disk)
	if err != nil {
		return nil, nil, fmt.Errorf("volume %s: %w", p.ref(volume), err)
	}
	d, err := f.ReadRecord()
	if err != nil {
		// The record cannot be read, but the key can still be found by the dataset's ID. Refusing would not protect the
		// data: an attacker with the keys may have a copy of the record.
		d = &dataset.Dataset{ID: f.ID}
	}
	switch {
	case !encrypted && d.Encryption == nil:
		return nil, nil, nil
	case !encrypted:
		if err := crypt.CheckFirstHeader(disk); err != nil {
			return nil, nil, err
		}
		return nil, nil, dataset.Errorf(dataset.ErrCorrupt,
			"its record says that it is encrypted, but volume %s is not", p.ref(volume))
	}
	if key, err = p.keyOf(ctx, *d); err != nil {
		return nil, nil, err
	}
	open, err = crypt.New(p.runner).Open(ctx, node.Name(), p.mapping(volume), key)
	return open, key, err
}

// mountedDevice returns the device of a volume in use that is mounted: the mapping on the volume, or the volume itself.
// It removes an unused mapping.
func (p *Pool) mountedDevice(volume string, dev dm.Device) (dm.Device, error) {
	m, exists, err := dm.Lookup(p.mapping(volume))
	switch {
	case err != nil || !exists:
		return dev, err
	case m.Open == 0:
		return dev, dm.Drop(m.Name)
	}
	return m, nil
}

// mkfsInContainer makes a filesystem in a container. It writes as few blocks as possible, because each written block
// takes space in the pool.
func (p *Pool) mkfsInContainer(ctx context.Context, fsType string, size dataset.Size, path string) error {
	more := []string{"-f", path} // -f, because blocks of the container that were never written read as random bytes
	if fsType == ext4 {
		more = []string{"-F", "-E", "nodiscard,lazy_itable_init=1", path}
	}
	_, err := p.runner.Run(ctx, run.Command{
		Name:    "mkfs." + fsType,
		Args:    append(mkfs.Args(fsType, size), more...),
		Timeout: mkfsTimeout,
	})
	return err
}

// close closes the container, if inspect opened one.
func (v active) close() error {
	if v.open == nil {
		return nil
	}
	return v.open.Close()
}

// extendContainer extends the container of a head to the size of its extended volume. It returns the size of the
// mounted device in bytes: that of the mapping, or size if the head has no container.
func (p *Pool) extendContainer(ctx context.Context, v active, volume string, size int64) (int64, error) {
	if v.open == nil {
		return size, nil
	}
	size, err := crypt.New(p.runner).Resize(ctx, p.mapping(volume), v.open.Path(), v.key)
	p.step("lvm.resize.mapping")
	return size, err
}
