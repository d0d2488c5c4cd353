// Package mount mounts, binds and unmounts with the kernel's calls for file descriptors (fsopen(2), fsmount(2),
// move_mount(2), since Linux 5.2), without starting mount(8). It also finds out from /proc which processes have a
// filesystem mounted.
//
// The agent mounts volumes with it, the backends mount their pools and look for users of datasets, and the guard looks
// for the processes that it must stop. The commands drover guard and drover backend verify (package verification), and
// packages inuse and iolimit, call it too. Packages for tests, such as scratch, call it as well. Each table is a copy
// of one moment, and is not changed. Only [Users] has state: it remembers the processes that it has seen. Its caller
// must prevent concurrent calls.
//
// The package has no list of allowed mount options. Package profiles decides which options a profile may choose, and
// the backend adds those that its volumes need. How options are passed to the kernel is in options.go. Mount tables are
// read in table.go and parse.go, and those of other processes in foreign.go and users.go. What identifies a filesystem
// is in identity.go, and for NFS in share.go. namespace.go shows a mount to single programs.
package mount

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The errors of this package, for errors.Is.
var (
	// ErrBusy means that a mount is in use: by an open file, a working directory, or a mount below it.
	ErrBusy = errors.New("mount is in use")
	// ErrNotMounted means that a path is not a mount point.
	ErrNotMounted = errors.New("not mounted")
)

// Spec describes a mount.
type Spec struct {
	// Source is a device, or the name of the source in the terms of the filesystem.
	Source string
	FSType string
	// Options are options as in mount(8) -o, one in each element: "noatime", "nouuid", "commit=30". Options of the
	// mount point (ro, nosuid, nodev, noexec, *atime, nosymfollow) are recognized, and all others are passed to the
	// filesystem.
	Options []string
	// ReadOnly makes the filesystem and the mount point read-only, like the option "ro".
	ReadOnly bool
}

// Error is the error of a mount, with the messages of the kernel about it.
type Error struct {
	Spec   Spec
	Target string
	// Step is the name of the call that failed.
	Step string
	// Log contains the messages of the filesystem about this mount.
	Log []string
	Err error
}

// StepCreate is the Step in which the kernel reads the filesystem.
const StepCreate = "fsconfig create"

func (e *Error) Error() string {
	place := ""
	if e.Target != "" {
		place = " on " + e.Target
	}
	msg := fmt.Sprintf("mount %s (%s)%s: %s: %v", e.Spec.Source, e.Spec.FSType, place, e.Step, e.Err)
	if len(e.Log) > 0 {
		msg += ": " + strings.Join(e.Log, "; ")
	}
	return msg
}

func (e *Error) Unwrap() error { return e.Err }

// Mount mounts spec on target, an existing directory that is not a symbolic link. A second call stacks another mount on
// the first one: the caller must know whether target is a mount point already (see Table). Errors are of type *Error.
func Mount(target string, spec Spec) error {
	fd, err := detached(spec)
	if err != nil {
		err.Target = target
		return err
	}
	defer unix.Close(fd)
	if err := move(fd, target); err != nil {
		return &Error{Spec: spec, Target: target, Step: "move_mount", Err: err}
	}
	return nil
}

// Detached mounts spec without a mount point and returns its root directory. It is for work on a filesystem that is not
// in use. The mount is removed when the returned file and all files opened below it are closed, or when this process
// ends. Write errors are lost then, so sync before. Errors are of type *Error.
func Detached(spec Spec) (*os.File, error) {
	tree, err := Tree(spec)
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	root, err := Root(tree)
	if err != nil {
		return nil, &Error{Spec: spec, Step: "open the root", Err: err}
	}
	return root, nil
}

// Root opens the root directory of a mount of Tree or BindTree, whose descriptor is O_PATH and allows no ioctls. The
// directory keeps the mount after that descriptor is closed.
func Root(tree *os.File) (*os.File, error) {
	fd, err := unix.Openat(int(tree.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open the root of", Path: tree.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), tree.Name()), nil
}

// Tree mounts spec without a mount point and returns the mount, for InNamespace. It ends when the returned file is
// closed, unless InNamespace has moved it. Errors are of type *Error.
func Tree(spec Spec) (*os.File, error) {
	fd, err := detached(spec)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "mount of "+spec.Source), nil
}

// View opens the root directory of the filesystem that is mounted on path, through a detached, read-only mount. An open
// View does not prevent the unmount of path, but keeps the filesystem alive. View fails with ErrNotMounted if path is
// not a mount point.
func View(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	place := os.NewFile(uintptr(fd), path)
	defer place.Close()
	var st unix.Statx_t
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
	if err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		err = ErrNotMounted
	}
	if err != nil {
		return nil, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	tree, err := BindTree(place, BindFlags{ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("view %s: %w", path, err)
	}
	defer tree.Close()
	return Root(tree)
}

func detached(spec Spec) (int, *Error) {
	fail := func(fs int, step string, err error) (int, *Error) {
		e := &Error{Spec: spec, Step: step, Err: err}
		if fs >= 0 {
			e.Log = kernelLog(fs)
			unix.Close(fs)
		}
		return -1, e
	}
	opts, err := parseOptions(spec)
	if err != nil {
		return fail(-1, "options", err)
	}
	fs, err := unix.Fsopen(spec.FSType, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fail(-1, "fsopen", err)
	}
	if err := unix.FsconfigSetString(fs, "source", spec.Source); err != nil {
		return fail(fs, "set the source", err)
	}
	for _, o := range opts.fs {
		if o.hasValue {
			err = unix.FsconfigSetString(fs, o.key, o.value)
		} else {
			err = unix.FsconfigSetFlag(fs, o.key)
		}
		if err != nil {
			return fail(fs, "option "+o.String(), err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fail(fs, StepCreate, err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, opts.attrs)
	if err != nil {
		return fail(fs, "fsmount", err)
	}
	unix.Close(fs)
	return fd, nil
}

// kernelLog reads the pending messages of a filesystem context. Each begins with its level and a blank
// (include/linux/fs_context.h).
func kernelLog(fs int) []string {
	const maxMessages = 16
	var log []string
	buf := make([]byte, 4096)
	for range maxMessages {
		n, err := unix.Read(fs, buf)
		if err != nil || n <= 0 {
			break
		}
		line := strings.TrimSpace(string(buf[:n]))
		if len(line) > 2 && line[1] == ' ' {
			line = line[2:]
		}
		log = append(log, line)
	}
	return log
}

func move(fd int, target string) error {
	return unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// BindFlags are flags of the bind mount. Its other flags are those of its source.
type BindFlags struct {
	ReadOnly bool
	NoDev    bool // device nodes cannot be opened
	NoSUID   bool // set-user-ID bits have no effect
	Inert    bool // programs do not start, and set-user-ID bits have no effect
}

// Bind makes the directory or file source visible on target too. target must exist, be of the same kind, and not be a
// symbolic link. Mounts below source are not included.
func Bind(source *os.File, target string, f BindFlags) error {
	tree, err := BindTree(source, f)
	if err != nil {
		return fmt.Errorf("bind %s on %s: %w", source.Name(), target, err)
	}
	defer tree.Close()
	if err := move(int(tree.Fd()), target); err != nil {
		return fmt.Errorf("bind %s on %s: move_mount: %w", source.Name(), target, err)
	}
	return nil
}

// BindTree is Bind without a target. It returns the mount, for InNamespace.
func BindTree(source *os.File, f BindFlags) (*os.File, error) {
	fd, err := unix.OpenTree(int(source.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, fmt.Errorf("open_tree: %w", err)
	}
	tree := os.NewFile(uintptr(fd), "mount of "+source.Name())
	attr := unix.MountAttr{}
	if f.ReadOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if f.NoDev {
		attr.Attr_set |= unix.MOUNT_ATTR_NODEV
	}
	if f.NoSUID || f.Inert {
		attr.Attr_set |= unix.MOUNT_ATTR_NOSUID
	}
	if f.Inert {
		attr.Attr_set |= unix.MOUNT_ATTR_NOEXEC
	}
	if attr.Attr_set != 0 {
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			return nil, errors.Join(fmt.Errorf("set its flags: %w", err), tree.Close())
		}
	}
	return tree, nil
}

// A process that this program starts has copies of all descriptors until its exec. Until then, the copies keep mounts
// busy.
const (
	busyTries = 20
	busyPause = 5 * time.Millisecond
)

// Unmount removes the topmost mount on target. It never detaches lazily: if the mount is in use, it fails with ErrBusy
// after a tenth of a second. It fails with ErrNotMounted if target is not a mount point.
func Unmount(target string) error {
	err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
	for range busyTries {
		if !errors.Is(err, unix.EBUSY) {
			break
		}
		<-time.After(busyPause)
		err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBUSY):
		err = ErrBusy
	case errors.Is(err, unix.EINVAL):
		err = ErrNotMounted
	}
	return fmt.Errorf("unmount %s: %w", target, err)
}

// UnmountUnused is Unmount for a mount that may be in use. It returns false if the mount stays, or does not exist.
func UnmountUnused(target string) (done bool, err error) {
	err = Unmount(target)
	if errors.Is(err, ErrBusy) || errors.Is(err, ErrNotMounted) || errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
