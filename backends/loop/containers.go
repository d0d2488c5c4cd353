package loop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/dm"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/google/uuid"
)

// The image of an encrypted dataset contains a LUKS2 container with the filesystem in it. Snapshots, clones and copies
// work as for any other image and need no key, because they share, send and receive ciphertext. Each image is formatted
// separately: the blocks that a template shares would be the same for datasets with different keys.

// containers opens the LUKS containers in the images of encrypted datasets of a pool.
type containers struct {
	runner    run.Runner
	keys      backends.Keys // nil if no keys are available
	suffix    string        // of the names of all mappings of the pool
	available bool          // encryption was possible when the pool was opened
	step      func(string)
}

// Mapping returns the name of the device mapping for the image of the dataset in dir. The name includes the pool,
// because two pools of a host can have the same dataset.
func (c *containers) Mapping(dir safefile.Dir) string {
	id, _, _ := strings.Cut(filepath.Base(dir.Name()), ".") // a deleted dataset can have a number after its UUID
	return "drover-" + id + c.suffix
}

// dataKey returns the key of the dataset in dir. It fails with ErrForbidden if no keys are available.
func (c *containers) dataKey(ctx context.Context, dir safefile.Dir) ([]byte, error) {
	id, ok := shelf.ParseID(filepath.Base(dir.Name()))
	if !ok {
		return nil, fmt.Errorf("%s is not the folder of a dataset", dir.Name())
	}
	d, err := shelf.ReadRecord(dir, id)
	if err != nil { // the provider of the keys may have the record
		d = &dataset.Dataset{ID: id}
	}
	return c.Key(ctx, *d)
}

// Key returns the data key of a dataset. It fails with ErrForbidden if no keys are available.
func (c *containers) Key(ctx context.Context, d dataset.Dataset) ([]byte, error) {
	if err := crypt.Available(); err != nil {
		return nil, err
	}
	if c.keys == nil {
		return nil, dataset.Errorf(dataset.ErrForbidden, "it is encrypted, and no keys are available")
	}
	return c.keys.DataKey(ctx, d)
}

// Format makes a container on a device.
func (c *containers) Format(ctx context.Context, device string, id uuid.UUID, key []byte) error {
	return crypt.New(c.runner).Format(ctx, device, id, key)
}

// Open opens the container on a device of the dataset in dir.
func (c *containers) Open(ctx context.Context, dir safefile.Dir, device string, key []byte) (*crypt.Device, error) {
	return crypt.New(c.runner).Open(ctx, device, c.Mapping(dir), key)
}

// KeyFor returns the data key of the dataset in dir. It fails if the key does not open the container in the image. The
// image must not be attached to a device. For an attached image, use PrepareGrowth.
func (c *containers) KeyFor(ctx context.Context, dir safefile.Dir, image string) ([]byte, error) {
	key, err := c.dataKey(ctx, dir)
	if err == nil {
		err = crypt.New(c.runner).CheckKey(ctx, dir.Path(image), key)
	}
	return key, err
}

// PrepareGrowth prepares the growth of an encrypted head that is mounted from a loop device. It returns the filesystem
// of the head, the path of its mapping, and a function that makes the mapping fill the device. It changes nothing,
// and fails if the key is absent or wrong.
func (c *containers) PrepareGrowth(ctx context.Context, dir safefile.Dir, device string) (fs, inner string,
	inside func() (int64, error), err error) {
	key, err := c.dataKey(ctx, dir)
	if err == nil {
		err = crypt.New(c.runner).CheckKey(ctx, device, key)
	}
	if err != nil {
		return "", "", nil, err
	}
	m, exists, err := dm.Lookup(c.Mapping(dir))
	if err == nil && !exists {
		err = dataset.Errorf(dataset.ErrConflict, "it is not mounted")
	}
	if err != nil {
		return "", "", nil, err
	}
	dev, err := os.Open(m.Node())
	if err != nil {
		return "", "", nil, err
	}
	fs, _, err = superblock(dev)
	return fs, m.Node(), func() (int64, error) { return c.FillDevice(ctx, m.Name, m.Node(), key) },
		errors.Join(err, dev.Close())
}

// FillDevice makes a mapping fill its loop device, and returns the size of the mapping in bytes.
func (c *containers) FillDevice(ctx context.Context, name, path string, key []byte) (int64, error) {
	if err := crypt.New(c.runner).Resize(context.WithoutCancel(ctx), name, key); err != nil {
		return 0, err
	}
	c.step("resize.mapping")
	dev, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	size, err := dev.Seek(0, io.SeekEnd)
	return size, errors.Join(err, dev.Close())
}

// DropUnused removes the mapping of the head in dir if it is unused. A crash while a mapping is made leaves such a
// mapping. DropUnused returns the mapping, and whether it existed.
func (c *containers) DropUnused(dir safefile.Dir) (m dm.Device, exists bool, err error) {
	m, exists, err = dm.Lookup(c.Mapping(dir))
	if err == nil && exists && m.Open == 0 {
		err = dm.Drop(m.Name)
	}
	return m, exists, err
}

// Discard removes the mapping of the dataset in dir. It is called if the content of the dataset is not needed any more.
// If a command of a killed process still uses the mapping, the kernel removes the mapping when the command ends.
func (c *containers) Discard(dir safefile.Dir) error {
	if !c.available {
		return nil
	}
	return dm.Drop(c.Mapping(dir))
}

// DropAllUnused removes the unused mappings of the pool, and waits until they are gone.
func (c *containers) DropAllUnused() error {
	if !c.available {
		return nil
	}
	return crypt.RemoveUnused(context.Background(), func(name string) bool {
		return strings.HasPrefix(name, "drover-") && strings.HasSuffix(name, c.suffix)
	})
}
