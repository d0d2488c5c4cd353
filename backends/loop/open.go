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

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/disk"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/durable"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/safefile"
)

// poolImage is the file with an XFS that contains a pool. All of its blocks are allocated when it is made, and never
// given back (mkfs -K, nodiscard, and no discards on its device). So the pool keeps its space even if the disk of the
// host fills up.
type poolImage struct {
	file   string
	mount  string
	note   []string
	blocks imageBlocks
}

// minPoolImage is the minimum size of a pool image. XFS needs 300 MiB for itself.
const minPoolImage = 512 * dataset.MiB

// openPoolImage mounts the pool image of cfg. It makes the image first if cfg demands that.
func openPoolImage(ctx context.Context, runner run.Runner, step func(string), cfg backends.Config) (*poolImage, error) {
	if cfg.Mount == "" {
		return nil, dataset.Errorf(dataset.ErrInvalid, "an image needs a directory as mount point")
	}
	img := &poolImage{file: cfg.Path, mount: cfg.Mount}
	fi, err := os.Lstat(cfg.Path)
	switch {
	case errors.Is(err, os.ErrNotExist) && cfg.Make:
		if err := makeImage(ctx, runner, step, cfg); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, dataset.Errorf(dataset.ErrOffline, "the pool's image is missing: %w", err)
	case !fi.Mode().IsRegular():
		return nil, dataset.Errorf(dataset.ErrExists, "%s is not a file (a symbolic link is not accepted)", cfg.Path)
	}
	content, err := fsctl.Identify(cfg.Path)
	if err != nil {
		return nil, err
	}
	if content != fsctl.HoldsXFS {
		return nil, dataset.Errorf(dataset.ErrExists,
			"%s contains %s instead of XFS: it was not changed (use a new file)", cfg.Path, content)
	}
	if fi != nil && (cfg.Make || cfg.ID == uuid.Nil) { // the file may not be a pool image
		if err := img.checkIsPool(ctx); err != nil {
			return nil, err
		}
	}
	if err := img.attach(ctx); err != nil {
		return nil, err
	}
	return img, nil
}

// checkIsPool fails with ErrExists if the XFS in an existing file is not a pool's. It only reads and does not replay
// the log, because the file may be mounted, for example by a virtual machine.
func (img *poolImage) checkIsPool(ctx context.Context) error {
	if device, err := img.mounted(); err != nil || device != "" {
		return err
	}
	dev, err := openDevice(ctx, img.file, loopdev.Options{DirectIO: true, BlockSize: sector})
	if err != nil {
		return err
	}
	defer dev.Close()
	dir, err := mount.Detached(mount.Spec{
		Source:   dev.Path,
		FSType:   mkfs.XFS,
		Options:  []string{"norecovery", "nouuid"},
		ReadOnly: true,
	})
	switch {
	case errors.Is(err, unix.EBUSY):
		err = dataset.Errorf(dataset.ErrInUse, "%s is mounted elsewhere on this host: %w", img.file, err)
	case errors.Is(err, unix.ENOSYS):
		err = dataset.Errorf(dataset.ErrExists,
			"%s contains XFS with smaller sectors than a pool has, and was not changed (use a new file): %w",
			img.file, err)
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("read %s: %w", img.file, err)
	}
	// The log is not replayed. If the pool was made just before, all of its names may still be in the log, and the
	// filesystem seems to be empty.
	if len(names) > 0 && !slices.Contains(names, shelf.MarkerFile) &&
		!slices.Contains(names, shelf.Incoming) {
		return dataset.Errorf(dataset.ErrExists,
			"%s contains XFS with %q in it, and no pool: it was not changed (use a new file)", img.file, names[0])
	}
	return nil
}

// makeImage makes the image under a temporary name, so that a file with the final name is complete.
func makeImage(ctx context.Context, runner run.Runner, step func(string), cfg backends.Config) error {
	size := (cfg.Image + sector - 1) / sector * sector
	if size < minPoolImage {
		return dataset.Errorf(dataset.ErrUnsupported, "an image of %s is too small for a pool (at least %s)",
			cfg.Image, minPoolImage)
	}
	if err := mkfs.CheckUsable(mkfs.XFS); err != nil { // a pool needs the same programs as a volume
		return dataset.Errorf(dataset.ErrUnsupported, "the image of a pool needs XFS: %w", err)
	}
	// Remove the temporary file of a killed process instead of overwriting it. It takes the room that the new file
	// needs, and the mkfs that the process started may still write to it.
	tmp := backends.TemporaryImagePath(cfg.Path)
	if err := safefile.AbsentIsFine(os.Remove(tmp)); err != nil {
		return err
	}
	if err := hostRoom(cfg.Path, size); err != nil {
		return err
	}
	err := formatImage(ctx, runner, tmp, size)
	if err == nil {
		step("image.made")
		err = renameNew(tmp, cfg.Path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("create the pool's image %s: %w", cfg.Path, backends.NoSpace(err)),
			safefile.AbsentIsFine(os.Remove(tmp)))
	}
	return durable.SyncDir(filepath.Dir(cfg.Path))
}

// renameNew renames a file. It fails with ErrExists if something has the new name. NFS and some other filesystems
// cannot check this in the same step: there, it replaces a file of that name.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	switch {
	case errors.Is(err, unix.EEXIST):
		return dataset.Errorf(dataset.ErrExists, "it was created concurrently, and was not changed")
	case errors.Is(err, unix.EINVAL): // NFS has no such renaming
		return os.Rename(from, to)
	}
	return err
}

// formatTimeout bounds mkfs.xfs.
const formatTimeout = 10 * time.Minute

// formatImage makes a file of a size with all its blocks, and an XFS in it.
func formatImage(ctx context.Context, runner run.Runner, path string, size dataset.Size) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := allocateBlocks(f, int64(size)); err != nil {
		return err
	}
	args := []string{"-q", "-K", "-s", "size=4096", "-m", "reflink=1", path}
	if _, err := runner.Run(ctx, run.Command{Name: "mkfs.xfs", Args: args, Timeout: formatTimeout}); err != nil {
		return err
	}
	return f.Sync()
}

// allocateBlocks allocates the first size bytes of a file.
func allocateBlocks(f *os.File, size int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, 0, size)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("allocate %s: %w", dataset.Size(size), err)
		}
		return nil
	}
}

// hostRoom fails with ErrNoSpace if a file of a size would fill its disk.
func hostRoom(path string, size dataset.Size) error {
	dir := filepath.Dir(path)
	bytes, all, err := fsctl.Space(dir)
	if errors.Is(err, os.ErrNotExist) {
		return dataset.Errorf(dataset.ErrInvalid, "no such directory: %s (create it first)", dir)
	} else if err != nil {
		return err
	}
	free, keep := dataset.Size(bytes), backends.Reserve(dataset.Size(all))
	if free < size+keep {
		return dataset.Errorf(dataset.ErrNoSpace,
			"%s has %s free: too little for %s and the %s reserved for the host", dir, free.Human(), size.Human(),
			keep.Human())
	}
	return nil
}

// attach mounts the image, unless it is mounted from an earlier run.
func (img *poolImage) attach(ctx context.Context) error {
	if err := os.MkdirAll(img.mount, 0o700); err != nil {
		return err
	}
	device, err := img.mounted()
	if err != nil {
		return err
	}
	if device != "" {
		img.keepBlocks(device)
		return nil
	}
	dev, err := openDevice(ctx, img.file, loopdev.Options{DirectIO: true, BlockSize: sector})
	if err != nil {
		return err
	}
	defer dev.Close()
	img.keepBlocks(dev.Path)
	if !dev.DirectIO {
		img.note = append(img.note, "the image is used without direct I/O, which its disk does not support")
	}
	spec := mount.Spec{Source: dev.Path, FSType: mkfs.XFS, Options: []string{"nodiscard", "noatime", "nouuid"}}
	err = mount.Mount(img.mount, spec)
	for try := 0; errors.Is(err, unix.EBUSY) && try < busyTries && ctx.Err() == nil; try++ {
		<-time.After(busyPause) // a process that is being forked has a copy of checkIsPool's device
		err = mount.Mount(img.mount, spec)
	}
	return err
}

// mounted returns the device of the image if the image is mounted in its place, and "" if nothing is mounted there. It
// fails with ErrOffline if something else is mounted there.
func (img *poolImage) mounted() (device string, err error) {
	table, err := mount.Table()
	if err != nil {
		return "", err
	}
	e := table.At(img.mount)
	if e == nil {
		return "", nil
	}
	f, err := os.Open(img.file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, ok, err := loopdev.FindByFile(f)
	if err != nil {
		return "", err
	}
	if !ok || info.Path != e.Source {
		return "", dataset.Errorf(dataset.ErrOffline, "%s is mounted at %s, where the pool's image %s belongs",
			e.Source, img.mount, img.file)
	}
	return info.Path, nil
}

// Close unmounts the image unless it is in use.
func (img *poolImage) Close() error {
	device, lookErr := img.mounted()
	done, err := mount.UnmountUnused(img.mount)
	if done && lookErr == nil && device != "" {
		removeDevice(device)
	}
	return err
}

// removeDevice waits until nothing uses a loop device that refuses discards, and then removes it. So the next device
// with the same number accepts discards. A process that is being forked may have a copy of the device or of the mount.
// So removeDevice gives up after a moment. That is safe, because loopdev.Attach checks the device too.
func removeDevice(path string) {
	for range removeTries {
		if !errors.Is(loopdev.Remove(path), unix.EBUSY) {
			return
		}
		<-clock.System{}.After(busyPause)
	}
}

// removeTries is how often removeDevice tries.
const removeTries = 20

// Clear unmounts the image and removes the file. It fails with ErrInUse if the image is in use, so that it stays
// mounted. It fails with ErrOffline if the image was not mounted, or if its name belongs to another file, which may
// contain anything.
func (img *poolImage) Clear(step func(string)) error {
	var opened, named os.FileInfo
	device, err := img.mounted()
	switch {
	case err == nil && device != "":
		opened, err = os.Lstat(img.file)
	case err == nil:
		err = dataset.Errorf(dataset.ErrOffline, "%s is no longer mounted", img.file)
	}
	if err = errors.Join(safefile.AbsentIsFine(err), img.Close()); err != nil {
		return err
	}
	if device, err = img.mounted(); safefile.AbsentIsFine(err) != nil {
		return err
	}
	if device != "" {
		return dataset.Errorf(dataset.ErrInUse, "%s is still in use (fuser -vm %s shows the "+
			"users)", img.mount, img.mount)
	}
	step("clear.unmounted")
	if named, err = os.Lstat(img.file); err == nil && !os.SameFile(opened, named) {
		return dataset.Errorf(dataset.ErrOffline, "%s is not the file that was mounted: it was not changed", img.file)
	}
	if err := safefile.AbsentIsFine(os.Remove(img.file)); err != nil {
		return err
	}
	step("clear.removed")
	return errors.Join(safefile.AbsentIsFine(os.Remove(img.mount)), durable.SyncDir(filepath.Dir(img.file)))
}

// Open implements backends.Kind.
func (b *Backend) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	if !filepath.IsAbs(cfg.Path) || filepath.Clean(cfg.Path) != cfg.Path {
		return nil, dataset.Errorf(dataset.ErrInvalid,
			"pool %s: bad path %q: expected an absolute path without . and ..", cfg.Name, cfg.Path)
	}
	p := &Pool{backend: b, name: cfg.Name}
	at := cfg
	var err error
	if cfg.Image > 0 {
		p.image, err = openPoolImage(ctx, b.runner, p.step, cfg)
		at.Path = cfg.Mount
	}
	if len(cfg.Devices) > 0 {
		if p.disk, err = disk.Open(ctx, b.runner, cfg, fsctl.XFS, nil); err == nil {
			at.ID = p.disk.ID
		}
	}
	if err == nil {
		err = p.openOrMake(at)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pool %s: %w", cfg.Name, err), p.Close())
	}
	return p, nil
}

// PathOf implements backends.BlockDeviceKind.
func (b *Backend) PathOf(_, mount string) string { return mount }

// openOrMake makes the pool if cfg.Make is set, reads its marker and prepares it for use.
func (p *Pool) openOrMake(cfg backends.Config) error {
	kind, err := layoutFor(cfg.Path, cfg.Make)
	if err != nil {
		return err
	}
	if p.Shelf, err = shelf.OpenLayout(cfg, Name, kind); err != nil {
		return err
	}
	if err := p.Shelf.KeepCopies(); err != nil {
		return err
	}
	root, err := p.Shelf.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	if p.image != nil {
		if err := p.image.RefillAtOpen(); err != nil {
			return err
		}
	}
	p.layout = xfsLayout{}
	if kind == layoutBtrfs {
		p.layout = &btrfsLayout{}
	}
	if err := root.Mkdir(templatesDir); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := p.layout.Prepare(root); err != nil {
		return err
	}
	if p.direct, err = directIO(root, shelf.MarkerFile); err != nil {
		return err
	}
	p.mountPath, p.keys = cfg.MountPath, cfg.Keys
	p.records = recordWriter{Layout: p.layout, Direct: p.direct}
	if err := p.describeHost(); err != nil {
		return err
	}
	p.templates = &templates{
		runner: p.backend.runner, pool: p.Path(), layout: p.layout, filesystems: p.info.Capabilities.Filesystems,
		step: p.step,
	}
	p.BackendNames = []string{templatesDir}
	p.IsComplete, p.Flush, p.CheckUnused, p.Destroy = p.isComplete, p.layout.Flush, p.checkUnused, p.destroy
	return p.dropAllUnused() // removes mappings that a killed process left
}

// describeHost sets the result of Info.
func (p *Pool) describeHost() error {
	host := mkfs.DetectHost()
	caps := p.backend.MaxCapabilities()
	if err := host.Declare(&caps, "no filesystem for the images"); err != nil {
		return err
	}
	seals := crypt.Available()
	note := []string{p.layout.Note()}
	if !p.direct {
		note = append(note, "without direct I/O, which this filesystem does not support")
	}
	if len(caps.OfflineGrow) > 0 {
		note = append(note, "ext4 cannot grow while mounted, because this process lacks CAP_SYS_RESOURCE")
	}
	if p.image != nil {
		note = append(note, p.image.note...)
	}
	if p.disk != nil {
		note = append(note, p.disk.Note())
	}
	_, caps.ConstantSnapshot = p.layout.(*btrfsLayout)
	caps.Encryption = seals == nil
	p.info = backends.Info{
		Capabilities:    caps,
		CopyFilesystems: host.Mounts, Missing: host.MissingWith(seals), Note: strings.Join(note, "; "), Path: p.Path(),
		DefaultSize: defaultSize, UsedStartsNoProgram: true,
	}
	return nil
}

// room fails with ErrNoSpace if the pool is so full that no new work should begin. Otherwise writes to existing
// datasets would soon fail.
func (p *Pool) room() error {
	if err := p.Room(); err != nil || p.image == nil {
		return err
	}
	return p.image.Room()
}

// Pool is an open pool of images.
type Pool struct {
	backend *Backend
	name    string
	info    backends.Info
	*shelf.Shelf
	image   *poolImage // nil unless the pool is in an image file
	disk    *disk.Disk // nil unless the pool has separate devices
	layout  layout
	records recordWriter

	keys      backends.Keys          // nil if no keys are available
	mountPath func(uuid.UUID) string // the path on which the agent mounts a dataset
	direct    bool                   // devices use direct I/O

	templates *templates
	newUsage  newUsage
}

var (
	_ backends.Pool             = (*Pool)(nil)
	_ backends.Resizer          = (*Pool)(nil)
	_ backends.Copier           = (*Pool)(nil)
	_ backends.StallPredictor   = (*Pool)(nil)
	_ backends.SnapshotMeasurer = (*Pool)(nil)

	_ backends.Formatter = (*Pool)(nil)
	_ backends.Warner    = (*Pool)(nil)

	_ backends.PolicyKeeper = (*Pool)(nil)
)

// Info implements backends.Pool.
func (p *Pool) Info() backends.Info { return p.info }

// step calls the hook of tests between two actions.
func (p *Pool) step(name string) { p.backend.step("loop." + name) }

// Status implements backends.Pool.
func (p *Pool) Status(context.Context) dataset.PoolStatus {
	st := p.Shelf.Status()
	if st.Online {
		if err := p.room(); err != nil {
			st.Reason = err.Error()
		}
	}
	return st
}

// Trim implements backends.Trimmer.
func (p *Pool) Trim(context.Context) (dataset.Size, error) { return p.Shelf.Trim() }

// Close implements backends.Pool. It unmounts a pool in an image or on its own devices. If datasets of the pool are
// in use, it stays mounted for the next Open.
func (p *Pool) Close() error {
	err := p.dropAllUnused()
	if p.image == nil {
		return errors.Join(err, p.disk.Close())
	}
	return errors.Join(err, p.image.Close())
}

// Filesystem implements backends.Formatter.
func (p *Pool) Filesystem(size dataset.Size) string {
	fs, _ := mkfs.Choose("", size, p.info.Capabilities.Filesystems) // Create returns the error
	return fs
}

// Warnings implements backends.Warner.
func (p *Pool) Warnings() []string {
	if p.image == nil {
		return nil
	}
	return p.image.Warnings()
}
