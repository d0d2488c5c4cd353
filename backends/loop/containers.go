package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/dm"
	"github.com/droverhq/drover/internal/safefile"
)

// The image of an encrypted dataset contains a LUKS2 container with the filesystem in it. Snapshots, clones and copies
// work as for any other image and need no key, because they share, send and receive ciphertext. Each image is formatted
// separately: the blocks that a template shares would be the same for datasets with different keys.

func (p *Pool) mappingSuffix() string { return "-" + p.ID().String()[:8] }

// mapping returns the name of the device mapping for the image of the dataset in dir. The name includes the pool,
// because two pools of a host can have the same dataset.
func (p *Pool) mapping(dir safefile.Dir) string {
	id, _, _ := strings.Cut(filepath.Base(dir.Name()), ".") // a deleted dataset can have a number after its UUID
	return "drover-" + id + p.mappingSuffix()
}

// dataKey returns the key of the dataset in dir. It fails with ErrForbidden if no keys are available.
func (p *Pool) dataKey(ctx context.Context, dir safefile.Dir) ([]byte, error) {
	id, ok := shelf.ParseID(filepath.Base(dir.Name()))
	if !ok {
		return nil, fmt.Errorf("%s is not the folder of a dataset", dir.Name())
	}
	d, err := shelf.ReadRecord(dir, id)
	if err != nil { // the provider of the keys may have the record
		d = &dataset.Dataset{ID: id}
	}
	return p.keyOf(ctx, *d)
}

// keyOf returns the data key of a dataset. It fails with ErrForbidden if no keys are available.
func (p *Pool) keyOf(ctx context.Context, d dataset.Dataset) ([]byte, error) {
	if err := crypt.Available(); err != nil {
		return nil, err
	}
	if p.keys == nil {
		return nil, dataset.Errorf(dataset.ErrForbidden, "it is encrypted, and no keys are available")
	}
	return p.keys.DataKey(ctx, d)
}

func (p *Pool) openContainer(ctx context.Context, dir safefile.Dir, device string, key []byte) (*crypt.Device, error) {
	return crypt.New(p.backend.runner).Open(ctx, device, p.mapping(dir), key)
}

// keyFor returns the data key of the dataset in dir. It fails if the key does not open the container in the image. The
// image must not be attached to a device. For an attached image, use PrepareGrowth.
func (p *Pool) keyFor(ctx context.Context, dir safefile.Dir, image string) ([]byte, error) {
	key, err := p.dataKey(ctx, dir)
	if err == nil {
		err = crypt.New(p.backend.runner).CheckKey(ctx, dir.Path(image), key)
	}
	return key, err
}

// prepareGrowth prepares the growth of an encrypted head that is mounted from a loop device. It returns the filesystem
// of the head, the path of its mapping, and a function that makes the mapping fill the device. It changes nothing,
// and fails if the key is absent or wrong.
func (p *Pool) prepareGrowth(ctx context.Context, dir safefile.Dir, device string) (fs, inner string,
	inside func() (int64, error), err error) {
	key, err := p.dataKey(ctx, dir)
	if err == nil {
		err = crypt.New(p.backend.runner).CheckKey(ctx, device, key)
	}
	if err != nil {
		return "", "", nil, err
	}
	m, exists, err := dm.Lookup(p.mapping(dir))
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
	return fs, m.Node(), func() (int64, error) { return p.fillDevice(ctx, m.Name, m.Node(), key) },
		errors.Join(err, dev.Close())
}

// fillDevice makes a mapping fill its loop device, and returns the size of the mapping in bytes.
func (p *Pool) fillDevice(ctx context.Context, name, path string, key []byte) (int64, error) {
	size, err := crypt.New(p.backend.runner).Resize(context.WithoutCancel(ctx), name, path, key)
	p.step("resize.mapping")
	return size, err
}

// dropUnused removes the mapping of the head in dir if it is unused. A crash while a mapping is made leaves such a
// mapping. DropUnused returns the mapping, and whether it existed.
func (p *Pool) dropUnused(dir safefile.Dir) (m dm.Device, exists bool, err error) {
	m, exists, err = dm.Lookup(p.mapping(dir))
	if err == nil && exists && m.Open == 0 {
		err = dm.Drop(m.Name)
	}
	return m, exists, err
}

// discardMapping removes the mapping of the dataset in dir. It is called if the content of the dataset is not needed
// any more. If a command of a killed process still uses the mapping, the kernel removes the mapping when the command
// ends.
func (p *Pool) discardMapping(dir safefile.Dir) error {
	if !p.info.Capabilities.Encryption {
		return nil
	}
	return dm.Drop(p.mapping(dir))
}

// dropAllUnused removes the unused mappings of the pool, and waits until they are gone.
func (p *Pool) dropAllUnused() error {
	if !p.info.Capabilities.Encryption {
		return nil
	}
	return crypt.RemoveUnused(p.mappingSuffix())
}
