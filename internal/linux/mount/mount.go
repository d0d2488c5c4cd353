// Package mount mounts, binds and unmounts through the kernel's file descriptor
// based calls (fsopen(2), fsmount(2), move_mount(2), Linux 5.2 and later), without
// starting mount(8), and tells from /proc who has a filesystem mounted where.
package mount

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Kinds of failure; test with errors.Is.
var (
	// ErrBusy: something still uses the mount: an open file, a working directory,
	// a mount below it.
	ErrBusy = errors.New("mount is in use")
	// ErrNotMounted: the path is no mount point.
	ErrNotMounted = errors.New("not mounted")
)

// Spec is what to mount.
type Spec struct {
	// Source is a device path, or the filesystem's own name of its source.
	Source string
	FSType string
	// Options are single options as mount(8) takes them after -o, one an element:
	// "noatime", "nouuid", "commit=30". Those of the mount point (ro, nosuid, nodev,
	// noexec, *atime, nosymfollow) are told from those of the filesystem.
	Options []string
	// ReadOnly makes filesystem and mount point read-only, as option "ro" does.
	ReadOnly bool
}

// Error is a mount that failed, with the kernel's messages about it.
type Error struct {
	Spec   Spec
	Target string
	// Step is the call that failed.
	Step string
	// Log has the filesystem's messages for this mount, one message an element.
	Log []string
	Err error
}

// StepCreate is the Step in which the kernel looks at the filesystem.
const StepCreate = "fsconfig create"

func (e *Error) Error() string {
	where := ""
	if e.Target != "" {
		where = " on " + e.Target
	}
	msg := fmt.Sprintf("mount %s (%s)%s: %s: %v", e.Spec.Source, e.Spec.FSType, where, e.Step, e.Err)
	if len(e.Log) > 0 {
		msg += ": " + strings.Join(e.Log, "; ")
	}
	return msg
}

func (e *Error) Unwrap() error { return e.Err }

// Mount mounts spec on target, an existing directory that is no symbolic link. A
// second Mount stacks a second mount on it: whether target is mounted already is
// for the caller to know (Table). Failures are an *Error.
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

// Detached mounts spec invisibly and returns its root directory, for
// work on a filesystem that is not in use. The mount is removed when the file, and all files that were opened
// below it, are closed or this process ends. Errors of the last writes are lost then: sync before. Failures
// are an *Error.
func Detached(spec Spec) (*os.File, error) {
	fd, mountErr := detached(spec)
	if mountErr != nil {
		return nil, mountErr
	}
	// The mount's own descriptor is O_PATH, good for no ioctl. The directory keeps
	// the mount alive alone.
	defer unix.Close(fd)
	dir, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &Error{Spec: spec, Step: "open the root", Err: err}
	}
	return os.NewFile(uintptr(dir), "root of "+spec.Source), nil
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

// kernelLog reads the messages that wait on a filesystem context. Each starts with
// its level and a blank (include/linux/fs_context.h).
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

// BindFlags are the flags of a bind mount itself; all others are those of its source.
type BindFlags struct {
	ReadOnly bool
	NoDev    bool // device nodes in it open no device
}

// Bind makes the directory or file behind source visible on target as well, which
// must exist, be of the same kind and be no symbolic link. Mounts below source do not
// come along.
func Bind(source *os.File, target string, f BindFlags) error {
	fail := func(step string, err error) error {
		return fmt.Errorf("bind %s on %s: %s: %w", source.Name(), target, step, err)
	}
	fd, err := unix.OpenTree(int(source.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return fail("open_tree", err)
	}
	defer unix.Close(fd)
	attr := unix.MountAttr{}
	if f.ReadOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if f.NoDev {
		attr.Attr_set |= unix.MOUNT_ATTR_NODEV
	}
	if attr.Attr_set != 0 {
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			return fail("set its flags", err)
		}
	}
	if err := move(fd, target); err != nil {
		return fail("move_mount", err)
	}
	return nil
}

// A process that is being forked here holds copies of all descriptors until its exec,
// and with them the mounts that they are in, for a moment.
const (
	busyTries = 20
	busyPause = 5 * time.Millisecond
)

// Unmount takes the topmost mount off target. It never detaches lazily: a mount in
// use stays and gives ErrBusy, after a tenth of a second; a path that is no mount point
// gives ErrNotMounted.
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
