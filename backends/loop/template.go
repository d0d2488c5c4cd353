package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/crypt"
	"github.com/droverhq/drover/internal/fsctl"
	"github.com/droverhq/drover/internal/loopdev"
	"github.com/droverhq/drover/internal/mount"
	"github.com/droverhq/drover/internal/reflink"
	"github.com/droverhq/drover/internal/run"
)

// The filesystems that an image can hold.
const (
	ext4 = "ext4"
	xfs  = "xfs"
)

const (
	minExt4 = 16 * dataset.MiB
	minXFS  = 300 * dataset.MiB // mkfs.xfs refuses less
	maxSize = 16 * dataset.TiB  // beyond it mkfs takes minutes

	mkfsTimeout = 90 * time.Second
)

// template says which formatted image a dataset starts from.
type template struct {
	fs    string
	size  int64 // bytes, a multiple of the block
	owner dataset.Owner
}

const rootMode = 0o755

// tmpSuffix ends the names of files that are being made.
const tmpSuffix = ".tmp"

// templateFor returns the template for a dataset, or what is wrong with what it asks.
func (p *Pool) templateFor(d dataset.Dataset) (template, error) {
	size := d.Size
	if size == 0 {
		size = defaultSize
	}
	size = roundUp(size)
	t := template{fs: d.Profile.Filesystem.Type, size: int64(size)}
	if d.Profile.Owner != nil {
		t.owner = *d.Profile.Owner
	}
	have := p.info.Capabilities.Filesystems
	if t.fs == "" {
		t.fs = p.Filesystem(size - overhead(d))
	}
	if !slices.Contains(have, t.fs) {
		return t, dataset.Errorf(dataset.ErrUnsupported, "no filesystem %q in images here (have: %s)", t.fs, strings.Join(have, ", "))
	}
	least := minExt4
	if t.fs == xfs {
		least = minXFS
	}
	least += overhead(d)
	if size < least {
		return t, dataset.Errorf(dataset.ErrUnsupported, "%s is too small for %s, which needs %s", size, t.fs, least)
	}
	if size > maxSize {
		return t, dataset.Errorf(dataset.ErrUnsupported, "%s is too large for an image (at most %s)", size, maxSize)
	}
	return t, nil
}

// overhead is what a dataset's image has beside its filesystem.
func overhead(d dataset.Dataset) dataset.Size {
	if d.Encryption == nil {
		return 0
	}
	return crypt.Overhead
}

// Filesystem implements backends.Formatter: XFS where it fits, as it takes several times
// as many small synced writes as ext4 in an image.
func (p *Pool) Filesystem(size dataset.Size) string {
	have := p.info.Capabilities.Filesystems
	if size < minXFS && slices.Contains(have, ext4) {
		return ext4
	}
	return have[0]
}

// roundUp makes an image a whole number of blocks.
func roundUp(size dataset.Size) dataset.Size { return (size + sector - 1) / sector * sector }

func (t template) mode() uint32 {
	if t.owner.Mode != nil {
		return *t.owner.Mode
	}
	return rootMode
}

func (t template) name() string {
	return fmt.Sprintf("%s-%d-u%d-g%d-m%o%s", t.fs, t.size, t.owner.UID, t.owner.GID, t.mode(), imageSuffix)
}

// openTemplate opens the template's image, making it first if there is none: the only
// time that a create starts a program.
func (p *Pool) openTemplate(ctx context.Context, root folder, t template) (*os.File, error) {
	path := filepath.Join(templates, t.name())
	f, err := root.open(path)
	if !errors.Is(err, os.ErrNotExist) {
		return f, err
	}
	p.format.Lock()
	defer p.format.Unlock()
	if f, err := root.open(path); !errors.Is(err, os.ErrNotExist) {
		return f, err
	}
	tmp := path + ".tmp"
	if err := p.makeTemplate(ctx, root, tmp, t); err != nil {
		return nil, errors.Join(fmt.Errorf("format an image with %s: %w", t.fs, err), absentIsFine(root.remove(tmp)))
	}
	if err := p.pruneTemplates(root); err != nil {
		return nil, err
	}
	p.step("template.made")
	if err := root.rename(tmp, path); err != nil {
		return nil, err
	}
	dir, err := root.sub(templates)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(p.layout.flush(dir), dir.Close()); err != nil {
		return nil, err
	}
	return root.open(path)
}

func (p *Pool) makeTemplate(ctx context.Context, root folder, name string, t template) error {
	// Not written over: the mkfs of a process that was killed may be at work on it still.
	if err := absentIsFine(root.remove(name)); err != nil {
		return err
	}
	f, err := root.openFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(t.size); err != nil {
		return err
	}
	path := filepath.Join(p.path, name)
	args := []string{"-q", "-F", "-b", "4096", "-m", "0", "-e", "remount-ro", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", path}
	if t.fs == xfs {
		// Sectors as large as the loop device's blocks, or it could not be mounted.
		args = []string{"-q", "-K", "-s", "size=4096", path}
	}
	if _, err := p.backend.runner.Run(ctx, run.Command{Name: "mkfs." + t.fs, Args: args, Timeout: mkfsTimeout}); err != nil {
		return err
	}
	if err := onDetached(ctx, path, t.fs, func(dir *os.File) error { return prepareRoot(dir, t) }); err != nil {
		return err
	}
	// Each hole makes one more extent for every clone to share, so only the large ones.
	if _, err := reflink.PunchZeros(f, 64<<10); err != nil {
		return err
	}
	return f.Sync()
}

// prepareRoot makes the root of a new filesystem empty, and whose it is to be.
func prepareRoot(dir *os.File, t template) error {
	if err := absentIsFine(unix.Unlinkat(int(dir.Fd()), "lost+found", unix.AT_REMOVEDIR)); err != nil {
		return fmt.Errorf("remove lost+found: %w", err)
	}
	if err := dir.Chown(int(t.owner.UID), int(t.owner.GID)); err != nil {
		return err
	}
	// Not os.Chmod, whose setuid, setgid and sticky bits are others than the system's.
	if err := unix.Fchmod(int(dir.Fd()), t.mode()); err != nil {
		return fmt.Errorf("set the mode of the root: %w", err)
	}
	return nil
}

// onDetached mounts the filesystem in the image at path where nobody sees it, and
// writes it out after f.
func onDetached(ctx context.Context, path, fs string, f func(dir *os.File) error) error {
	dev, err := attach(ctx, path, loopdev.Options{BlockSize: sector, Sole: true})
	if err != nil {
		return err
	}
	return errors.Join(detached(dev.Path, fs, f), dev.Close())
}

// detached does so with the filesystem on a device.
func detached(device, fs string, f func(dir *os.File) error) error {
	dir, err := mount.Detached(mount.Spec{Source: device, FSType: fs, Options: mountOptions(fs, nil)})
	if err != nil {
		return err
	}
	return errors.Join(f(dir), fsctl.Sync(dir), dir.Close())
}

// keptTemplates bounds what sizes that were asked for once take in the pool.
const keptTemplates = 64

// pruneTemplates removes the oldest templates, to have room for one more.
func (p *Pool) pruneTemplates(root folder) error {
	type made struct {
		name string
		at   time.Time
	}
	entries, err := root.entries(templates)
	if err != nil {
		return err
	}
	var all []made
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), imageSuffix) {
			continue
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		all = append(all, made{e.Name(), fi.ModTime()})
	}
	slices.SortFunc(all, func(a, b made) int { return a.at.Compare(b.at) })
	for len(all) >= keptTemplates {
		if err := root.remove(filepath.Join(templates, all[0].name)); err != nil {
			return err
		}
		all = all[1:]
	}
	return nil
}
