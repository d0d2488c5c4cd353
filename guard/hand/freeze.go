package hand

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/mount"
)

// freezeRetry is the interval of the attempts to freeze a filesystem that another program has frozen.
const freezeRetry = 2 * time.Millisecond

// freezer freezes and thaws the filesystems of datasets. Safe for concurrent use.
type freezer struct {
	root  string // see Options.Root
	clock clock.Clock
	marks *markFiles
	look  func(context.Context, Target) *look // returns a look for the holders of a dataset

	mu       sync.Mutex
	freezing map[uuid.UUID]*attempt
	wg       sync.WaitGroup // counts the attempts that are under way
}

// isFreezing reports whether an attempt to freeze a dataset is under way.
func (f *freezer) isFreezing(id uuid.UUID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.freezing[id] != nil
}

// Freeze freezes the filesystem of a dataset, if the dataset has a filesystem for itself.
//
// If another program has frozen the filesystem, writers would continue when that program thaws it. So Freeze tries
// again until it has frozen the filesystem itself, or ctx ends. If the filesystem is mounted nowhere, the act is
// done. If ctx ends before the kernel has finished, the freeze continues in the background, and the next call finds
// its result.
func (f *freezer) Freeze(ctx context.Context, target Target) Outcome {
	if !target.Own {
		return Outcome{Note: "it shares its filesystem with other datasets: a freeze would block those too"}
	}
	for {
		a := f.begin(target)
		select {
		case <-a.done:
		case <-ctx.Done():
			return Outcome{Note: "the kernel has not finished the freeze in time, and continues with it"}
		}
		if !errors.Is(a.err, fsctl.ErrFrozen) {
			return a.outcome
		}
		if at, ours := f.marks.frozenAt(target.Dataset); ours {
			return Outcome{Done: true, At: at}
		}
		select {
		case <-f.clock.After(freezeRetry):
		case <-ctx.Done():
			return Outcome{Note: "another program has frozen its filesystem, and can thaw it"}
		}
	}
}

// attempt is one call of FIFREEZE, which may take long. outcome and err are valid once done is closed.
type attempt struct {
	done    chan struct{}
	outcome Outcome
	err     error
}

// begin starts an attempt to freeze a dataset, or returns the one that is under way.
func (f *freezer) begin(target Target) *attempt {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a := f.freezing[target.Dataset]; a != nil {
		return a
	}
	a := &attempt{done: make(chan struct{})}
	f.freezing[target.Dataset] = a
	f.wg.Go(func() { // Tool.Wait waits for this
		a.outcome, a.err = f.freezeOnce(target)
		f.mu.Lock()
		delete(f.freezing, target.Dataset)
		f.mu.Unlock()
		close(a.done)
	})
	return a
}

func (f *freezer) freezeOnce(target Target) (Outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), reachTime)
	defer cancel()
	dir, err := f.openFilesystem(ctx, target)
	if err != nil {
		return Outcome{Note: noteOf(err, "")}, err
	}
	if dir == nil { // openFilesystem has examined all processes
		return Outcome{Done: true, At: clock.Boottime(), Note: "it is mounted nowhere"}, nil
	}
	defer dir.Close()
	intent := mark{markFreeze, "-"}
	if err := f.marks.add(target.Dataset, intent); err != nil {
		return Outcome{Note: noteOf(err, "")}, err
	}
	var limits liftedLimits
	var limitErr error
	if _, frozen := f.marks.frozenAt(target.Dataset); !frozen {
		limits, limitErr = liftLimits(f.marks, target.Dataset, dir)
	}
	err = fsctl.Freeze(dir)
	// dir keeps the device in use, so that no other device has its number yet.
	limitErr = errors.Join(limitErr, limits.restore(f.marks, target.Dataset))
	if err != nil {
		return Outcome{Note: noteOf(errors.Join(err, limitErr), "")}, err
	}
	o := Outcome{Done: true, At: clock.Boottime(), Changed: true}
	if limitErr != nil {
		o.Note = noteOf(fmt.Errorf("frozen, but its I/O limits were not lifted for that, or not restored: %w",
			limitErr), "")
	}
	if err := f.marks.setFrozen(target.Dataset, o.At); err != nil {
		// Without the mark, the next hand assumes that another program has frozen it.
		o.Note = noteOf(fmt.Errorf("frozen, but that could not be recorded: %w", err), "")
	}
	// Undo may have removed the mark before the kernel finished the freeze.
	if marks, err := f.marks.of(target.Dataset); err == nil && !slices.Contains(marks, intent) {
		err := errors.Join(fsctl.Thaw(dir), remove(f.marks.frozenFile(target.Dataset)))
		return Outcome{Note: "the freeze was undone before the kernel finished it"}, err
	}
	return o, nil
}

// reachTime bounds the search for a mount in other namespaces, if the host has not mounted the filesystem.
const reachTime = time.Second

// openFilesystem opens a directory of the dataset's filesystem. It uses the mount on the dataset's paths, or another
// mount of the host, or one in another namespace. It returns nil if the filesystem is mounted nowhere and no process
// can write to it. If it finds no mount, but a process that can write to the filesystem, it returns errHeld. If it
// cannot find out whether there is such a process, it returns another error.
func (f *freezer) openFilesystem(ctx context.Context, target Target) (*os.File, error) {
	table, err := mount.Table()
	if err != nil {
		return nil, err
	}
	w := &processTable{own: table}
	fsys := w.filesystem(target)
	if !fsys.ok {
		return nil, nil
	}
	if err := f.checkFreezable(fsys.Filesystem, target.Paths[0]); err != nil {
		return nil, err
	}
	if fsys.entry != nil {
		return openMount("/", fsys.entry)
	}
	dir, hostErr := openOfHost(fsys.Filesystem, w.hostMounts(fsys.Filesystem))
	if dir != nil {
		return dir, nil
	}
	l := f.look(ctx, target)
	if w, err = l.namespaces(ctx); err == nil {
		err = l.descriptors(ctx)
	}
	if err != nil {
		return nil, err
	}
	dir, err = openAny(fsys.Filesystem, w.foreignMounts(fsys.Filesystem))
	if dir != nil {
		return dir, nil
	}
	if err = errors.Join(hostErr, err); err == nil {
		err = w.checkNoHolders(target)
	}
	return nil, err
}

// openOfHost is like openAny, for mounts of the host besides the dataset's paths. It fails if the identity of the
// filesystem is not known. Such a mount may belong to another dataset with the same device number, and a thaw would
// undo the fence of that dataset.
func openOfHost(fsys mount.Filesystem, mounts []reachableMount) (*os.File, error) {
	if len(mounts) > 0 && !fsys.Confirmed() && !fsys.Reused() {
		return nil, fmt.Errorf("%s is mounted, and may be another filesystem with the same device number",
			mounts[0].Mountpoint)
	}
	return openAny(fsys, mounts)
}

// reachableMount is a mount, and the path in /proc of the root directory of a process that sees it.
type reachableMount struct {
	*mount.Entry
	root string
}

// openAny opens the first mount of a filesystem that can be opened. It returns nil if mounts is empty, or if the
// device number of the filesystem belongs to another filesystem now. It fails if there are mounts and none of them
// can be opened.
func openAny(fsys mount.Filesystem, mounts []reachableMount) (*os.File, error) {
	var errs []error
	for _, m := range mounts {
		dir, err := openMount(m.root, m.Entry)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if fsys.Reused() { // dir keeps the device in use, so that this cannot change any more
			return nil, dir.Close()
		}
		return dir, nil
	}
	return nil, errors.Join(errs...)
}

// openMount opens the mount point of e below root, the root directory of a process that sees e. It fails if the
// opened directory is not on the mount e. That can happen for two reasons: e was unmounted meanwhile, so that Freeze
// would freeze the filesystem below it, or a container has put a symbolic link there.
func openMount(root string, e *mount.Entry) (*os.File, error) {
	at, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(at)
	fd, err := unix.Openat2(at, "."+e.Mountpoint, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: e.Mountpoint, Err: err}
	}
	f := os.NewFile(uintptr(fd), e.Mountpoint)
	var st unix.Statx_t
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st)
	if err == nil && int(st.Mnt_id) != e.ID {
		err = fmt.Errorf("%s was unmounted while it was opened", e.Mountpoint)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// hostMounts returns the host's mounts of a filesystem, also those that show only a part of it.
func (w *processTable) hostMounts(fsys mount.Filesystem) (found []reachableMount) {
	for _, e := range w.own {
		if fsys.MayMatch(e) {
			found = append(found, reachableMount{e, "/"})
		}
	}
	return found
}

// foreignMounts returns the mounts of a filesystem in other mount namespaces, one for each of them.
func (w *processTable) foreignMounts(fsys mount.Filesystem) (found []reachableMount) {
	seen := map[*inuse.View]bool{}
	for _, p := range w.procs {
		for _, v := range p.found.Views {
			if seen[v] {
				continue
			}
			seen[v] = true
			for _, e := range v.Mounts {
				if fsys.MayMatch(e) {
					found = append(found, reachableMount{e, filepath.Join("/proc", strconv.Itoa(p.PID), "root")})
				}
			}
		}
	}
	return found
}

// errHeld is returned for a filesystem that has no visible mount although a process can write to it.
var errHeld = errors.New("no mount of it is visible, but a process has it open")

// checkNoHolders fails if a process holds the dataset, or could not be examined.
func (w *processTable) checkNoHolders(target Target) error {
	if held := w.holders(target); len(held) > 0 {
		return fmt.Errorf("%w: process %d (%s)", errHeld, held[0].PID, held[0].Comm)
	}
	if left := w.unexamined(target); len(left) > 0 {
		return fmt.Errorf("process %d (%s) may have it mounted: %w", left[0].PID, left[0].Comm, left[0].unexamined)
	}
	return nil
}

// checkFreezable fails with ErrInvalid if a freeze would stop more than the dataset: if path shows only a
// part of its filesystem, or if it is the filesystem of the host or of the guard.
func (f *freezer) checkFreezable(fsys mount.Filesystem, path string) error {
	if fsys.Root != "/" {
		return dataset.Errorf(dataset.ErrInvalid,
			"%s shows only %s of its filesystem: a freeze would stop other users of that filesystem too", path,
			fsys.Root)
	}
	for _, dir := range []string{"/", "/proc/self/exe", f.root, f.marks.run} {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return fmt.Errorf("filesystem of %s: %w", dir, err)
		}
		if unix.Major(st.Dev) == uint32(fsys.Major) && unix.Minor(st.Dev) == uint32(fsys.Minor) {
			return dataset.Errorf(dataset.ErrInvalid,
				"the filesystem on %s is also that of %s: a freeze would stop the host or the guard", path, dir)
		}
	}
	return nil
}

// thaw undoes Freeze. It returns nil if the filesystem is not frozen. It also returns nil if no mount of the filesystem
// is visible: FITHAW needs an open directory of the filesystem, so nothing can be thawed.
func (f *freezer) thaw(target Target) error {
	ctx, cancel := context.WithTimeout(context.Background(), reachTime)
	defer cancel()
	dir, err := f.openFilesystem(ctx, target)
	if errors.Is(err, errHeld) {
		return nil
	}
	if err != nil || dir == nil {
		return err
	}
	defer dir.Close()
	if err := fsctl.Thaw(dir); err != nil && !errors.Is(err, fsctl.ErrNotFrozen) {
		return err
	}
	return nil
}

// remove removes a file. It returns nil if there is none.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Bind returns the filesystem that is mounted on the dataset's paths now, with its identity. It fails
// with ErrNotFound if nothing is mounted there, and with ErrInvalid if different filesystems are, or if
// Target.Own is set and the filesystem must not be frozen (see checkFreezable).
func (f *freezer) Bind(target Target) (mount.Filesystem, error) {
	table, err := mount.Table()
	if err != nil {
		return mount.Filesystem{}, err
	}
	var found []mount.Filesystem
	var first *mount.Entry
	for _, path := range target.Paths {
		if e := table.At(path); e != nil {
			found = append(found, mount.Filesystem{Major: e.Major, Minor: e.Minor, Root: e.Root})
			first = cmp.Or(first, e)
		}
	}
	if len(found) == 0 {
		return mount.Filesystem{}, dataset.Errorf(dataset.ErrNotFound,
			"nothing is mounted on %s", strings.Join(target.Paths, ", "))
	}
	if len(slices.Compact(found)) > 1 {
		return mount.Filesystem{}, dataset.Errorf(dataset.ErrInvalid,
			"different filesystems are mounted on %s", strings.Join(target.Paths, ", "))
	}
	if target.Own {
		if err := f.checkFreezable(found[0], target.Paths[0]); err != nil {
			return mount.Filesystem{}, err
		}
	}
	return identify(first)
}

// identify returns the filesystem of a mount with its identity. It fails with ErrNotFound if the mount is
// gone: the identity may be that of the next filesystem with the same device number.
func identify(e *mount.Entry) (mount.Filesystem, error) {
	fsys := mount.Identify(e)
	table, err := mount.Table()
	if err != nil {
		return mount.Filesystem{}, err
	}
	if now := table.Index()[e.ID]; now == nil || now.Major != e.Major || now.Minor != e.Minor {
		return mount.Filesystem{}, dataset.Errorf(dataset.ErrNotFound, "%s was unmounted meanwhile", e.Mountpoint)
	}
	return fsys, nil
}

// readOnly makes the host's mount read-only (mount_setattr(2)). It ignores EBUSY, which the kernel returns
// as long as a stopped holder has a file open for writing.
func (t *Tool) readOnly(w *processTable, target Target) error {
	fsys := w.filesystem(target)
	if fsys.entry == nil || mount.IsReadOnly(fsys.entry) {
		return nil
	}
	if err := t.marks.add(target.Dataset, mark{markReadOnly, fsys.entry.Mountpoint}); err != nil {
		return err
	}
	err := setReadOnly(fsys.entry.Mountpoint, true)
	if errors.Is(err, unix.EBUSY) {
		return nil
	}
	return err
}

func setReadOnly(path string, on bool) error {
	attr := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
	if on {
		attr = unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	}
	return unix.MountSetattr(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, &attr)
}
