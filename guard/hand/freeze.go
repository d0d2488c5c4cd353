package hand

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/fsctl"
	"github.com/droverhq/drover/internal/mount"
)

// retry is how often a filesystem is tried again that somebody else has frozen.
const retry = 2 * time.Millisecond

// Freeze freezes the filesystem of a dataset that has one of its own. One that somebody
// else has frozen is tried until that thaws it, or the context ends: whoever froze it can
// let the writers go on. It is done as well when it is mounted nowhere. What the kernel
// has not done when the context ends goes on, and is found by the next call.
func (t *Tool) Freeze(ctx context.Context, target Target) Outcome {
	if !target.Own {
		return Outcome{Note: "it shares its filesystem with others: a freeze would stop those too"}
	}
	for {
		a := t.attempt(target)
		select {
		case <-a.done:
		case <-ctx.Done():
			return Outcome{Note: "the kernel has not frozen it in time, and goes on with it"}
		}
		if !errors.Is(a.err, fsctl.ErrFrozen) {
			return a.outcome
		}
		if at, ours := t.frozenAt(target.Dataset); ours {
			return Outcome{Done: true, At: at}
		}
		select {
		case <-t.Clock.After(retry):
		case <-ctx.Done():
			return Outcome{Note: "somebody else has frozen its filesystem, and can thaw it"}
		}
	}
}

// attempt is one call of FIFREEZE, which may take long.
type attempt struct {
	done    chan struct{}
	outcome Outcome
	err     error
}

// attempt begins to freeze, or joins an attempt that is under way.
func (t *Tool) attempt(target Target) *attempt {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.freezing[target.Dataset]; a != nil {
		return a
	}
	a := &attempt{done: make(chan struct{})}
	if t.freezing == nil {
		t.freezing = map[uuid.UUID]*attempt{}
	}
	t.freezing[target.Dataset] = a
	t.wg.Go(func() { // Wait waits for it
		a.outcome, a.err = t.freezeOnce(target)
		t.mu.Lock()
		delete(t.freezing, target.Dataset)
		t.mu.Unlock()
		close(a.done)
	})
	return a
}

func (t *Tool) freezeOnce(target Target) (Outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), reachTime)
	defer cancel()
	dir, err := t.reach(ctx, target)
	if err != nil {
		return Outcome{Note: note(err, "")}, err
	}
	if dir == nil { // and reach has seen everything
		return Outcome{Done: true, At: t.now(), Note: "it is mounted nowhere"}, nil
	}
	defer dir.Close()
	intent := mark{markFreeze, "-"}
	if err := t.note(target.Dataset, intent); err != nil {
		return Outcome{Note: note(err, "")}, err
	}
	var were lift
	var unlimited error
	if _, frozen := t.frozenAt(target.Dataset); !frozen {
		were, unlimited = t.unlimit(target.Dataset, dir)
	}
	err = fsctl.Freeze(dir)
	unlimited = errors.Join(unlimited, t.limitAgain(target.Dataset, were)) // while the device is in use: its number is nobody else's
	if err != nil {
		return Outcome{Note: note(errors.Join(err, unlimited), "")}, err
	}
	o := Outcome{Done: true, At: t.now(), Anew: true}
	if unlimited != nil {
		o.Note = note(fmt.Errorf("the limits of its speed were not lifted for what was not on disk yet, or are not back: %w", unlimited), "")
	}
	if err := t.markFrozen(target.Dataset, o.At); err != nil {
		// It is frozen. A guard that is started anew takes it for somebody else's doing.
		o.Note = note(fmt.Errorf("frozen, and it could not be noted: %w", err), "")
	}
	// It may have been undone before the kernel was through with it.
	if marks, err := t.marks(target.Dataset); err == nil && !slices.Contains(marks, intent) {
		err := errors.Join(fsctl.Thaw(dir), remove(t.frozenMark(target.Dataset)))
		return Outcome{Note: "it was undone before it was done"}, err
	}
	return o, nil
}

// reachTime bounds the search for a mount of a filesystem that the host has not mounted.
const reachTime = time.Second

// reach opens the root of the dataset's filesystem: through the host's mount, or one in another
// namespace when the host has none. It returns nil when the filesystem is mounted nowhere, and an error
// when that could not be found out, or when a process has a file of it open all the same.
func (t *Tool) reach(ctx context.Context, target Target) (*os.File, error) {
	table, err := mount.Table()
	if err != nil {
		return nil, err
	}
	w := &world{own: table}
	fsys := w.filesystem(target)
	if !fsys.ok {
		return nil, nil
	}
	root, e := "/", fsys.entry
	if e == nil {
		l := t.looks.begin(ctx, t, target)
		if w, err = l.namespaces(ctx); err == nil {
			err = l.descriptors(ctx)
		}
		if err != nil {
			return nil, err
		}
		if root, e = w.elsewhere(fsys.Filesystem); e == nil {
			return nil, w.nowhere(target)
		}
	}
	if err := t.mayFreeze(fsys.Filesystem, e.Mountpoint); err != nil {
		return nil, err
	}
	return openMount(root, e)
}

// openMount opens a mount, as a process sees it whose root directory is root, and makes
// sure that it is that one: were it taken off meanwhile, the filesystem below would be
// frozen, and a container can put a link in its place.
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
	if err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err == nil && int(st.Mnt_id) != e.ID {
		err = fmt.Errorf("%s: the mount went while it was opened", e.Mountpoint)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// elsewhere returns a mount of the filesystem that a process sees, and the path of that
// process's root directory.
func (w *world) elsewhere(fsys mount.Filesystem) (root string, e *mount.Entry) {
	for _, p := range w.procs {
		for _, v := range p.views {
			for _, e := range v.mounts.Of(fsys.Major, fsys.Minor) {
				if e.Root == fsys.Root {
					return filepath.Join("/proc", strconv.Itoa(p.PID), "root"), e
				}
			}
		}
	}
	return "", nil
}

// errHeld is returned for a filesystem that is mounted nowhere and that a process can write to.
var errHeld = errors.New("it is mounted nowhere, and a process has it open")

// nowhere fails unless all processes were examined and none holds the dataset.
func (w *world) nowhere(target Target) error {
	if held := w.holders(target); len(held) > 0 {
		return fmt.Errorf("%w: process %d (%s)", errHeld, held[0].PID, held[0].Comm)
	}
	if left := w.unexamined(target); len(left) > 0 {
		return fmt.Errorf("process %d (%s) may have it mounted: %w", left[0].PID, left[0].Comm, left[0].unexamined)
	}
	return nil
}

// mayFreeze refuses to freeze what is not the dataset's alone: a part of a filesystem, or
// one that this host, or the guard, lives on.
func (t *Tool) mayFreeze(fsys mount.Filesystem, path string) error {
	if fsys.Root != "/" {
		return dataset.Errorf(dataset.ErrInvalid, "on %s is %s of a filesystem and not all of it: a freeze would stop others too", path, fsys.Root)
	}
	for _, dir := range []string{"/", "/proc/self/exe", t.Root, t.Run} {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return fmt.Errorf("filesystem of %s: %w", dir, err)
		}
		if unix.Major(st.Dev) == uint32(fsys.Major) && unix.Minor(st.Dev) == uint32(fsys.Minor) {
			return dataset.Errorf(dataset.ErrInvalid, "on %s is the filesystem of %s: a freeze would stop the host or the guard", path, dir)
		}
	}
	return nil
}

// thaw undoes Freeze. A filesystem that is not frozen, or is mounted nowhere, is no error: through no
// descriptor that is left can it be thawed.
func (t *Tool) thaw(target Target) error {
	ctx, cancel := context.WithTimeout(context.Background(), reachTime)
	defer cancel()
	dir, err := t.reach(ctx, target)
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

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Bind tells what is mounted on the dataset's paths now. ErrNotFound when nothing is;
// ErrInvalid when the paths have different things, or what should be a filesystem of its
// own is none.
func (t *Tool) Bind(target Target) (mount.Filesystem, error) {
	table, err := mount.Table()
	if err != nil {
		return mount.Filesystem{}, err
	}
	var found []mount.Filesystem
	for _, path := range target.Paths {
		if e := table.At(path); e != nil {
			found = append(found, mount.Filesystem{Major: e.Major, Minor: e.Minor, Root: e.Root})
		}
	}
	if len(found) == 0 {
		return mount.Filesystem{}, dataset.Errorf(dataset.ErrNotFound, "nothing is mounted on %s", strings.Join(target.Paths, ", "))
	}
	if len(slices.Compact(found)) > 1 {
		return mount.Filesystem{}, dataset.Errorf(dataset.ErrInvalid, "different filesystems are mounted on %s", strings.Join(target.Paths, ", "))
	}
	if target.Own {
		if err := t.mayFreeze(found[0], target.Paths[0]); err != nil {
			return mount.Filesystem{}, err
		}
	}
	return found[0], nil
}
