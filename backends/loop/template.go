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

	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/run"
)

// The filesystems that an image can hold.
const (
	ext4 = mkfs.Ext4
	xfs  = mkfs.XFS
)

const mkfsTimeout = 90 * time.Second

// template says which formatted image a dataset starts from.
type template struct {
	fs    string
	size  dataset.Size // a multiple of the block
	owner dataset.Owner
}

// templateFor returns the template for a dataset, or what is wrong with what it asks.
func (p *Pool) templateFor(d dataset.Dataset) (template, error) {
	size := d.Size
	if size == 0 {
		size = defaultSize
	}
	t := template{size: roundUp(size)}
	if d.Profile.Owner != nil {
		t.owner = *d.Profile.Owner
	}
	var err error
	if t.fs, err = mkfs.Choose(d.Profile.Filesystem.Type, t.size, p.info.Capabilities.Filesystems); err != nil {
		return t, err
	}
	return t, mkfs.Check(t.fs, t.size)
}

// Filesystem implements backends.Formatter.
func (p *Pool) Filesystem(size dataset.Size) string {
	fs, _ := mkfs.Choose("", size, p.info.Capabilities.Filesystems) // Create says why there is none
	return fs
}

// name has what templates differ by; one of an older version, which ends otherwise, has an image of
// just its size.
func (t template) name() string {
	mode := uint32(mkfs.RootMode)
	if t.owner.Mode != nil {
		mode = *t.owner.Mode
	}
	return fmt.Sprintf("%s-%d-u%d-g%d-m%o-2%s", t.fs, t.size, t.owner.UID, t.owner.GID, mode, layout.ImageSuffix)
}

// openTemplate opens the template's image, making it first if there is none: the only
// time that a create starts a program.
func (p *Pool) openTemplate(ctx context.Context, root folder.Dir, t template) (*os.File, error) {
	path := filepath.Join(layout.Templates, t.name())
	f, err := root.Open(path)
	if !errors.Is(err, os.ErrNotExist) {
		return f, err
	}
	p.format.Lock()
	defer p.format.Unlock()
	if f, err := root.Open(path); !errors.Is(err, os.ErrNotExist) {
		return f, err
	}
	tmp := path + ".tmp"
	if err := p.makeTemplate(ctx, root, tmp, t); err != nil {
		return nil, errors.Join(
			fmt.Errorf("format an image with %s: %w", t.fs, err),
			folder.AbsentIsFine(root.Remove(tmp)),
		)
	}
	if err := p.pruneTemplates(root); err != nil {
		return nil, err
	}
	p.step("template.made")
	if err := root.Rename(tmp, path); err != nil {
		return nil, err
	}
	dir, err := root.Sub(layout.Templates)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(p.layout.Flush(dir), dir.Close()); err != nil {
		return nil, err
	}
	return root.Open(path)
}

func (p *Pool) makeTemplate(ctx context.Context, root folder.Dir, name string, t template) error {
	// Not written over: the mkfs of a process that was killed may be at work on it still.
	if err := folder.AbsentIsFine(root.Remove(name)); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(imageFor(t.fs, t.size, false)); err != nil {
		return err
	}
	path := filepath.Join(p.path, name)
	if err := p.mkfs(ctx, t, path, "nodiscard,lazy_itable_init=0,lazy_journal_init=0"); err != nil {
		return err
	}
	if err := onDetached(ctx, path, t.fs, func(dir *os.File) error { return mkfs.Root(dir, &t.owner) }); err != nil {
		return err
	}
	// Each hole makes one more extent for every clone to share, so only the large ones.
	if _, err := reflink.PunchZeros(f, 64<<10); err != nil {
		return err
	}
	return f.Sync()
}

// mkfs makes the filesystem of a template on a device or in an image, that of an ext4 with options.
func (p *Pool) mkfs(ctx context.Context, t template, at, extended string) error {
	more := []string{"-F", "-E", extended, at}
	if t.fs == xfs {
		// Sectors as large as the loop device's blocks, or it could not be mounted.
		more = []string{"-f", "-s", "size=4096", at}
	}
	if err := mkfs.Usable(t.fs); err != nil { // it may have gone since the pool was opened
		return err
	}
	_, err := p.backend.runner.Run(ctx, run.Command{
		Name:    "mkfs." + t.fs,
		Args:    append(mkfs.Args(t.fs, t.size), more...),
		Timeout: mkfsTimeout,
	})
	return err
}

// onDetached mounts the filesystem in the image at path where nobody sees it, and
// writes it out after f.
func onDetached(ctx context.Context, path, fs string, f func(dir *os.File) error) error {
	dev, err := attach(ctx, path, loopdev.Options{BlockSize: layout.Sector, Sole: true})
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
func (p *Pool) pruneTemplates(root folder.Dir) error {
	type made struct {
		name string
		at   time.Time
	}
	entries, err := root.Entries(layout.Templates)
	if err != nil {
		return err
	}
	var all []made
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), layout.ImageSuffix) {
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
		if err := root.Remove(filepath.Join(layout.Templates, all[0].name)); err != nil {
			return err
		}
		all = all[1:]
	}
	return nil
}
