package attach

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/imagefile"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/run"
	"github.com/google/uuid"
)

// An encrypted dataset has a LUKS2 container in its image, and the filesystem in there. Snapshots,
// clones and copies are as they are of any other image: what is shared, sent and received is
// ciphertext, and takes no key. Each image is formatted for itself: what templates share would
// be the same for all that have other keys.

// Containers opens the LUKS containers in the images of encrypted datasets of a pool.
type Containers struct {
	runner    run.Runner
	Keys      backends.Keys // nil: no keys are available
	suffix    string        // of the names of all mappings of the pool
	available bool          // encryption was possible when the pool was opened
	step      func(string)
}

// NewContainers returns the containers of a pool. keys is nil if no keys are available. If encryption was not possible
// when the pool was opened, available is false.
func NewContainers(
	runner run.Runner,
	keys backends.Keys,
	pool uuid.UUID,
	available bool,
	step func(string),
) *Containers {
	return &Containers{runner: runner, Keys: keys, suffix: "-" + pool.String()[:8], available: available, step: step}
}

// HasKeys reports whether keys are available.
func (c *Containers) HasKeys() bool { return c.Keys != nil }

// Possible reports whether encryption was possible when the pool was opened.
func (c *Containers) Possible() bool { return c.available }

// Mapping is the name of the device that reads what is in the image of the dataset in dir. With
// the pool in it two pools of a host can have the same dataset.
func (c *Containers) Mapping(dir folder.Dir) string {
	id, _, _ := strings.Cut(filepath.Base(dir.Name()), ".") // which may be one of several that are deleted
	return "drover-" + id + c.suffix
}

// dataKey returns the key of the dataset in dir. ErrForbidden.
func (c *Containers) dataKey(ctx context.Context, dir folder.Dir) ([]byte, error) {
	id, err := layout.ParseID(filepath.Base(dir.Name()))
	if err != nil {
		return nil, err
	}
	d, err := layout.DatasetRecord(dir, id)
	if err != nil { // who has the keys may have a record too
		d = &dataset.Dataset{ID: id}
	}
	return c.Key(ctx, *d)
}

// Key returns the data key of a dataset. It fails with ErrForbidden if no keys are available.
func (c *Containers) Key(ctx context.Context, d dataset.Dataset) ([]byte, error) {
	if err := crypt.Available(); err != nil {
		return nil, err
	}
	if c.Keys == nil {
		return nil, dataset.Errorf(dataset.ErrForbidden, "it is encrypted, and no keys are at hand")
	}
	return c.Keys.DataKey(ctx, d)
}

// Format makes a container on a device.
func (c *Containers) Format(ctx context.Context, device string, id uuid.UUID, key []byte) error {
	return crypt.New(c.runner).Format(ctx, device, id, key)
}

// Open opens the container on a device of the dataset in dir.
func (c *Containers) Open(ctx context.Context, dir folder.Dir, device string, key []byte) (*crypt.Device, error) {
	return crypt.New(c.runner).Open(ctx, device, c.Mapping(dir), key)
}

// Fits returns the data key of what is in dir, which opens the container in an item that nothing
// uses: of what has a device see growsInside.
func (c *Containers) Fits(ctx context.Context, dir folder.Dir, image string) ([]byte, error) {
	key, err := c.dataKey(ctx, dir)
	if err == nil {
		err = crypt.New(c.runner).Fits(ctx, dir.Path(image), key)
	}
	return key, err
}

// GrowsInside prepares the growth of an encrypted head that is mounted from a loop device: it
// returns which filesystem the head has, its mapping, and what has the mapping fill the device. It
// changes nothing, and fails if the key is absent or another one.
func (c *Containers) GrowsInside(ctx context.Context, dir folder.Dir, device string) (fs, inner string,
	inside func() (int64, error), err error) {
	key, err := c.dataKey(ctx, dir)
	if err == nil {
		err = crypt.New(c.runner).Fits(ctx, device, key)
	}
	if err != nil {
		return "", "", nil, err
	}
	m, there, err := crypt.Find(c.Mapping(dir))
	if err == nil && !there {
		err = dataset.Errorf(dataset.ErrConflict, "it is not mounted")
	}
	if err != nil {
		return "", "", nil, err
	}
	dev, err := os.Open(m.Path())
	if err != nil {
		return "", "", nil, err
	}
	fs, _, err = imagefile.Superblock(dev)
	return fs, m.Path(), func() (int64, error) { return c.FillDevice(ctx, m.Name, m.Path(), key) },
		errors.Join(err, dev.Close())
}

// FillDevice has a mapping fill its loop device, and returns how many bytes the mapping has then.
func (c *Containers) FillDevice(ctx context.Context, name, path string, key []byte) (int64, error) {
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

// DropUnused has a mapping of the head in dir go that nobody uses, as a crash in the moment of its
// making left it; it returns where it is mounted, if it is.
func (c *Containers) DropUnused(dir folder.Dir) (m crypt.Mapping, there bool, err error) {
	m, there, err = crypt.Find(c.Mapping(dir))
	if err == nil && there && m.Users == 0 {
		err = crypt.Drop(m.Name)
	}
	return m, there, err
}

// Abandon has the mapping of what is in dir go, which is worthless: at once, or with what a
// process that was killed has left running on it.
func (c *Containers) Abandon(dir folder.Dir) error {
	if !c.available {
		return nil
	}
	return crypt.Drop(c.Mapping(dir))
}

// Settle lets go of the mappings of the pool that nobody uses, and waits until they are gone.
func (c *Containers) Settle() error {
	if !c.available {
		return nil
	}
	return crypt.Gone(context.Background(), func(name string) bool {
		return strings.HasPrefix(name, "drover-") && strings.HasSuffix(name, c.suffix)
	})
}
