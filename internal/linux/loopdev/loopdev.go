// Package loopdev attaches files to loop devices (loop(4)) so that nothing leaks: a
// device clears itself when its last user goes, and a file is attached at most once.
package loopdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ErrAttached means that the file has a loop device already; the error is an
// *AttachedError that tells which.
var ErrAttached = errors.New("file is attached to a loop device already")

// AttachedError names the device that a file is attached to.
type AttachedError struct {
	File   string
	Device Info
}

func (e *AttachedError) Error() string {
	return fmt.Sprintf("attach %s: it is attached to %s already", e.File, e.Device.Path)
}

// Is makes errors.Is(err, ErrAttached) hold.
func (e *AttachedError) Is(target error) bool { return target == ErrAttached }

// ErrShared means that the file has another name, under which it must not change.
var ErrShared = errors.New("file has more than one name")

// Options say how a file is attached.
type Options struct {
	ReadOnly bool
	// DirectIO asks for I/O past the page cache of the file. On a filesystem that does not support it, the
	// kernel continues with buffered I/O: see Device.DirectIO.
	DirectIO bool
	// BlockSize is the logical block size in bytes: 512 to the page size, a power
	// of two; 0 leaves it to the kernel. The file's size should be a multiple.
	BlockSize uint32
	// Sole refuses a file that has more than one name: ErrShared. It is looked at once the
	// device has the file, so who gives it another one, and looks for a device then, sees one.
	Sole bool
}

// Device is an attached file. It exists while the Device is open or something (a
// mount) uses it, and clears itself after, also when this process is killed.
type Device struct {
	// Path is /dev/loopN. Numbers are used again: never store one.
	Path string
	// DirectIO tells whether the kernel really goes past the page cache.
	DirectIO bool
	// BlockSize is the logical block size in bytes.
	BlockSize uint32
	// Inode is its file's number.
	Inode uint64

	dev  *os.File
	file *os.File
}

// Close closes the device. With no other user it is cleared at once. A second
// Close returns os.ErrClosed.
func (d *Device) Close() error {
	err := d.dev.Close()
	if d.file != nil {
		err = errors.Join(err, d.file.Close())
	}
	return err
}

// attempts bounds the races for a free device that one Attach may lose.
const attempts = 100

// replacements is how many devices that refuse discards one Attach tries to replace. The one
// after that is taken as it is: all that it costs is room.
const replacements = 8

// Attach binds file, a regular file and no symbolic link, to a free loop device,
// making one when all are taken. It fails with ErrAttached if the file has a device already, attached by any
// process and under any name (found by device and inode). It is safe for concurrent use, also by several
// processes: of two that attach one file, one wins.
func Attach(ctx context.Context, file string, opts Options) (*Device, error) {
	f, err := openBacking(ctx, file, opts.ReadOnly)
	if err != nil {
		return nil, fmt.Errorf("attach %s: %w", file, err)
	}
	keep := false
	defer func() {
		if !keep {
			_ = f.Close()
		}
	}()
	if err := Claim(ctx, f); err != nil {
		return nil, err
	}
	for try := range attempts {
		dev, err := attachFree(f, opts)
		if err == nil && try < replacements && refusesDiscards(dev.Name()) {
			// Best effort: while another process has the device open, its number stays.
			if err := dev.Close(); err != nil {
				return nil, err
			}
			_ = Remove(dev.Name())
			continue
		}
		if err == nil {
			if err := sole(f, opts); err != nil {
				return nil, errors.Join(err, dev.Close())
			}
			keep = true
			return finish(dev, f, opts)
		}
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("attach %s: %w", file, err)
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return nil, fmt.Errorf("attach %s: %w", file, err)
		}
	}
	return nil, fmt.Errorf("attach %s: lost %d races for a free loop device: %w", file, attempts, unix.EBUSY)
}

func sole(f *os.File, opts Options) error {
	if !opts.Sole {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("attach %s: %w", f.Name(), err)
	}
	if st.Nlink > 1 {
		return fmt.Errorf("attach %s: %w", f.Name(), ErrShared)
	}
	return nil
}

func openBacking(ctx context.Context, file string, readOnly bool) (*os.File, error) {
	mode := os.O_RDWR
	if readOnly {
		mode = os.O_RDONLY
	}
	// O_NONBLOCK, so that a FIFO put in the file's place can't hold us.
	f, err := os.OpenFile(file, mode|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	for errors.Is(err, unix.EAGAIN) {
		// Another Attach has its lease on it for a moment: see openElsewhere.
		if err := pause(ctx, time.Millisecond); err != nil {
			return nil, err
		}
		f, err = os.OpenFile(file, mode|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("not a regular file (%s)", fi.Mode().Type())
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// Claim keeps everyone else from attaching f's file, and claiming it, until f is closed. It
// waits for another that has it for a moment. ErrAttached when it has a device.
// The lock belongs to the open file, which the
// loop device keeps: so it holds for as long as the device does, also when this
// process is gone, and keeps a second attach out without looking at all devices.
func Claim(ctx context.Context, f *os.File) error {
	for {
		lockErr := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if lockErr == nil && openElsewhere(f) == no {
			return nil
		}
		if lockErr != nil && !errors.Is(lockErr, unix.EWOULDBLOCK) {
			return fmt.Errorf("attach %s: lock it: %w", f.Name(), lockErr)
		}
		info, found, err := FindByFile(f)
		switch {
		case err != nil:
			return fmt.Errorf("attach %s: %w", f.Name(), err)
		case found:
			return &AttachedError{File: f.Name(), Device: info}
		case lockErr == nil:
			return nil
		}
		// Another is between its lock and its device, or its device is just going.
		if err := pause(ctx, time.Millisecond); err != nil {
			return fmt.Errorf("attach %s: another process holds its lock: %w", f.Name(), err)
		}
	}
}

type answer bool

const (
	no    answer = false
	maybe answer = true
)

// openElsewhere tells whether f's file may be open somewhere else, a loop device
// counting as such: the kernel grants a write lease only when it isn't (fcntl(2)).
// It saves looking through every loop device of the host.
func openElsewhere(f *os.File) answer {
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		return maybe
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK); err != nil {
		return maybe
	}
	return no
}

// OpenElsewhere tells whether f's file may be open by another than f. It answers yes where the
// kernel does not tell.
func OpenElsewhere(f *os.File) bool { return openElsewhere(f) == maybe }

func attachFree(f *os.File, opts Options) (*os.File, error) {
	n, err := freeDevice()
	if err != nil {
		return nil, err
	}
	dev, err := openDevice(devDir, n, opts.ReadOnly)
	if err != nil {
		return nil, err
	}
	cfg := unix.LoopConfig{Fd: uint32(f.Fd()), Size: opts.BlockSize}
	cfg.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	if opts.ReadOnly {
		cfg.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	if opts.DirectIO {
		cfg.Info.Flags |= unix.LO_FLAGS_DIRECT_IO
	}
	// The name is for people (losetup -l); the last byte stays 0.
	copy(cfg.Info.File_name[:len(cfg.Info.File_name)-1], f.Name())
	if err := unix.IoctlLoopConfigure(int(dev.Fd()), &cfg); err != nil {
		_ = dev.Close()
		return nil, fmt.Errorf("configure %s: %w", dev.Name(), err)
	}
	return dev, nil
}

// finish reads back the options that the kernel has applied: it falls back from direct I/O without an error.
// file is nil for a device that was attached elsewhere.
func finish(dev, file *os.File, opts Options) (*Device, error) {
	d := &Device{Path: dev.Name(), dev: dev, file: file}
	st, err := unix.IoctlLoopGetStatus64(int(dev.Fd()))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("status of %s: %w", d.Path, err), d.Close())
	}
	d.DirectIO, d.Inode = st.Flags&unix.LO_FLAGS_DIRECT_IO != 0, st.Inode
	size, err := unix.IoctlGetInt(int(dev.Fd()), unix.BLKSSZGET)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("block size of %s: %w", d.Path, err), d.Close())
	}
	d.BlockSize = uint32(size)
	if opts.BlockSize != 0 && d.BlockSize != opts.BlockSize {
		return nil, errors.Join(fmt.Errorf("%s has blocks of %d bytes instead of %d", d.Path, d.BlockSize,
			opts.BlockSize), d.Close())
	}
	return d, nil
}

// SetCapacity tells the device at path that its file has grown. It is idempotent.
func SetCapacity(path string) error {
	dev, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set capacity: %w", err)
	}
	defer dev.Close()
	if err := unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		return fmt.Errorf("set capacity of %s: %w", path, err)
	}
	return nil
}

func freeDevice() (int, error) {
	ctl, err := os.OpenFile(devDir+"/loop-control", os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("no loop devices on this host: %w", err)
	}
	defer ctl.Close()
	n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return 0, fmt.Errorf("find a free loop device: %w", err)
	}
	return n, nil
}

const devDir = "/dev"

// openDevice opens loop device n. A container's own /dev is no devtmpfs, so there
// the nodes of devices made later have to be made by hand.
func openDevice(dir string, n int, readOnly bool) (*os.File, error) {
	mode := os.O_RDWR
	if readOnly {
		mode = os.O_RDONLY
	}
	path := dir + "/loop" + strconv.Itoa(n)
	dev, err := os.OpenFile(path, mode|unix.O_CLOEXEC, 0)
	if !errors.Is(err, os.ErrNotExist) {
		return dev, err
	}
	const loopMajor = 7 // Documentation/admin-guide/devices.txt
	err = unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(loopMajor, uint32(n))))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("make %s: %w", path, err)
	}
	return os.OpenFile(path, mode|unix.O_CLOEXEC, 0)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
