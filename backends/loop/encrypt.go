package loop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mkfs"
)

// An encrypted dataset has a LUKS2 container in its image, and the filesystem in there. Snapshots,
// clones and copies are as they are of any other image: what is shared, sent and received is
// ciphertext, and takes no key. Each image is formatted for itself: what templates share would
// be the same for all that have other keys.

// luks is what an image holds instead of a filesystem that can be seen.
const luks = "luks"

// containerOf tells whether an item's image has a container, and that one's UUID.
func (p *Pool) containerOf(dir folder.Dir, item string) (uuid.UUID, bool, error) {
	f, err := dir.Open(p.layout.Image(item))
	if err != nil {
		return uuid.Nil, false, err
	}
	defer f.Close()
	id, is, err := crypt.Header(f)
	if err != nil {
		err = fmt.Errorf("%s: %w", f.Name(), err)
	}
	return id, is, err
}

// sameKey fails with ErrInvalid unless an item is encrypted with the data key of a record, or
// neither is encrypted.
func (p *Pool) sameKey(dir folder.Dir, item string, d dataset.Dataset) error {
	id, is, err := p.containerOf(dir, item)
	switch {
	case err != nil:
		return err
	case is != (d.Encryption != nil):
		if _, _, err := p.inspect(dir, item); err != nil { // it may be neither
			return err
		}
		return dataset.Errorf(dataset.ErrInvalid, "of it and what it is made of one is encrypted, and the other is not")
	case is && id != d.Encryption.ID:
		return dataset.Errorf(dataset.ErrInvalid,
			"what it is made of is encrypted with data key %s, and its record has %s", id, d.Encryption.ID)
	}
	return nil
}

// mapping is the name of the device that reads what is in the image of the dataset in dir. With
// the pool in it two pools of a host can have the same dataset.
func (p *Pool) mapping(dir folder.Dir) string {
	id, _, _ := strings.Cut(filepath.Base(dir.Name()), ".") // which may be one of several that are deleted
	return "drover-" + id + p.mappings()
}

// mappings is what the names of all mappings of the pool end in.
func (p *Pool) mappings() string { return "-" + p.identity.ID.String()[:8] }

// dataKey returns the key of the dataset in dir. ErrForbidden.
func (p *Pool) dataKey(ctx context.Context, dir folder.Dir) ([]byte, error) {
	id, err := layout.ParseID(filepath.Base(dir.Name()))
	if err != nil {
		return nil, err
	}
	d, err := layout.DatasetRecord(dir, id)
	if err != nil { // who has the keys may have a record too
		d = &dataset.Dataset{ID: id}
	}
	return p.keyOf(ctx, *d)
}

func (p *Pool) keyOf(ctx context.Context, d dataset.Dataset) ([]byte, error) {
	if err := crypt.Available(); err != nil {
		return nil, err
	}
	if p.keys == nil {
		return nil, dataset.Errorf(dataset.ErrForbidden, "it is encrypted, and no keys are at hand")
	}
	return p.keys.DataKey(ctx, d)
}

// openContainer opens the container on a device of the dataset in dir.
func (p *Pool) openContainer(ctx context.Context, dir folder.Dir, device string, key []byte) (*crypt.Device, error) {
	return crypt.New(p.backend.runner).Open(ctx, device, p.mapping(dir), key)
}

// createEncrypted makes a dataset of its own, with no template.
func (p *Pool) createEncrypted(ctx context.Context, d dataset.Dataset, t template) (dataset.Size, error) {
	if !p.info.Capabilities.Encryption {
		err := crypt.Available()
		if err == nil {
			err = dataset.Errorf(dataset.ErrUnsupported,
				"encryption was not possible when the pool was opened (restart drover)")
		}
		return 0, err
	}
	key, err := p.keyOf(ctx, d)
	if err != nil {
		return 0, err
	}
	return p.build(d, func(_, dir folder.Dir) (made, error) {
		image, err := p.layout.Create(dir, layout.Next)
		if err != nil {
			return made{}, err
		}
		defer image.Close()
		if err := image.Truncate(imageFor(t.fs, t.size, true)); err != nil {
			return made{}, err
		}
		if err := p.encrypt(ctx, dir, d.Encryption.ID, key, t); err != nil {
			return made{}, fmt.Errorf("make an encrypted image: %w", err)
		}
		return made{item: layout.Next, size: t.size}, image.Sync()
	})
}

// encrypt makes a container in next, and the filesystem in that.
func (p *Pool) encrypt(ctx context.Context, dir folder.Dir, id uuid.UUID, key []byte, t template) error {
	dev, err := attach(ctx, dir.Path(p.layout.Image(layout.Next)),
		loopdev.Options{DirectIO: p.direct, BlockSize: layout.Sector, Sole: true})
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := crypt.New(p.backend.runner).Format(ctx, dev.Path, id, key); err != nil {
		return err
	}
	p.step("create.encrypted")
	open, err := p.openContainer(ctx, dir, dev.Path, key)
	if err != nil {
		return err
	}
	defer open.Close()
	p.step("create.opened")
	// Tables that are not written to are left to the kernel: here each block takes room.
	if err := p.mkfs(ctx, t, open.Path(), "nodiscard,lazy_itable_init=1"); err != nil {
		return err
	}
	return detached(open.Path(), t.fs, func(root *os.File) error { return mkfs.Root(root, &t.owner) })
}

// attachEncrypted is Attach of an encrypted head. Nothing was changed where the key is not here.
func (p *Pool) attachEncrypted(ctx context.Context, dir folder.Dir, opts backends.AttachOptions) (backends.Attachment,
	error) {
	var att backends.Attachment
	key, err := p.dataKey(ctx, dir)
	if err != nil {
		return att, err
	}
	dev, err := p.attachHead(ctx, dir, loopdev.Options{DirectIO: p.direct, BlockSize: layout.Sector, Sole: true})
	if err != nil {
		return att, err
	}
	// The mapping has it open then.
	defer dev.Close()
	open, err := p.openContainer(ctx, dir, dev.Path, key)
	if err != nil {
		return att, err
	}
	fs, size, err := superblock(open)
	have, sErr := open.Size()
	if err := errors.Join(err, sErr); err != nil {
		return att, errors.Join(fmt.Errorf("in the container: %w", err), open.Close())
	}
	att.Mount = mountOf(open.Path(), fs, have-size > growSlack, opts)
	att.Release = open.Close
	return att, nil
}

// fits returns the data key of what is in dir, which opens the container in an item that nothing
// uses: of what has a device see growsInside.
func (p *Pool) fits(ctx context.Context, dir folder.Dir, item string) ([]byte, error) {
	key, err := p.dataKey(ctx, dir)
	if err == nil {
		err = crypt.New(p.backend.runner).Fits(ctx, dir.Path(p.layout.Image(item)), key)
	}
	return key, err
}

// growsInside prepares the growth of an encrypted head that is mounted from a loop device: it
// returns which filesystem the head has, its mapping, and what has the mapping fill the device. It
// changes nothing, and fails if the key is absent or another one.
func (p *Pool) growsInside(ctx context.Context, dir folder.Dir, device string) (fs, inner string,
	inside func() (int64, error), err error) {
	key, err := p.dataKey(ctx, dir)
	if err == nil {
		err = crypt.New(p.backend.runner).Fits(ctx, device, key)
	}
	if err != nil {
		return "", "", nil, err
	}
	m, there, err := crypt.Find(p.mapping(dir))
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
	fs, _, err = superblock(dev)
	return fs, m.Path(), func() (int64, error) { return p.fillDevice(ctx, m.Name, m.Path(), key) },
		errors.Join(err, dev.Close())
}

// fillDevice has a mapping fill its loop device, and returns how many bytes the mapping has then.
func (p *Pool) fillDevice(ctx context.Context, name, path string, key []byte) (int64, error) {
	if err := crypt.New(p.backend.runner).Resize(context.WithoutCancel(ctx), name, key); err != nil {
		return 0, err
	}
	p.step("resize.mapping")
	dev, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	size, err := dev.Seek(0, io.SeekEnd)
	return size, errors.Join(err, dev.Close())
}

// growInContainer grows an encrypted image that nothing uses, and the filesystem in it.
func (p *Pool) growInContainer(ctx context.Context, dir folder.Dir, g growth, key []byte) error {
	dev, err := attach(ctx, g.image.Name(), loopdev.Options{DirectIO: p.direct, BlockSize: layout.Sector, Sole: true})
	if err != nil {
		return err
	}
	defer dev.Close()
	open, err := p.openContainer(ctx, dir, dev.Path, key)
	if err != nil {
		return err
	}
	defer open.Close()
	fs, _, err := superblock(open)
	if err != nil {
		return fmt.Errorf("in the container: %w", err)
	}
	g.device, g.inner = dev.Path, open.Path()
	g.inside = func() (int64, error) { return p.fillDevice(ctx, p.mapping(dir), open.Path(), key) }
	err = detached(open.Path(), fs, func(root *os.File) error { return p.enlarge(root, fs, g) })
	if errors.Is(err, fsctl.ErrCapability) { // see growIdle
		var size int64
		if size, err = open.Size(); err == nil {
			err = p.resize2fs(ctx, open.Path(), size)
		}
	}
	return err
}

// letGo has a mapping of the head in dir go that nobody uses, as a crash in the moment of its
// making left it; it returns where it is mounted, if it is.
func (p *Pool) letGo(dir folder.Dir) (m crypt.Mapping, there bool, err error) {
	m, there, err = crypt.Find(p.mapping(dir))
	if err == nil && there && m.Users == 0 {
		err = crypt.Drop(m.Name)
	}
	return m, there, err
}

// abandon has the mapping of what is in dir go, which is worthless: at once, or with what a
// process that was killed has left running on it.
func (p *Pool) abandon(dir folder.Dir) error {
	if !p.info.Capabilities.Encryption {
		return nil
	}
	return crypt.Drop(p.mapping(dir))
}

// settled lets go of the mappings of the pool that nobody uses, and waits until they are gone.
func (p *Pool) settled() error {
	if !p.info.Capabilities.Encryption {
		return nil
	}
	return crypt.Gone(context.Background(), func(name string) bool {
		return strings.HasPrefix(name, "drover-") && strings.HasSuffix(name, p.mappings())
	})
}
