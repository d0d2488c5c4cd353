// Package loopdev attaches files to loop devices (loop(4)) without leaks: a device detaches its file when its last user
// closes it, and a file is attached to at most one device. Backend loop, package trialdir, the command drover backend
// verify and tests call it, and the agent (agent/mounting) lists the devices on files of a volume. The package keeps no
// state: which devices exist is read from the kernel. A lock (flock(2)) on the file, which the device keeps, prevents a
// second attachment. How a file is attached is in loopdev.go, how devices are found in list.go and stacked.go, and
// whether they accept discards in discard.go.
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

// ErrAttached means that the file is already attached. The error is an *AttachedError, which names the device.
var ErrAttached = errors.New("file is already attached to a loop device")

// AttachedError names the device to which a file is already attached.
type AttachedError struct {
	File   string
	Device Info
}

func (e *AttachedError) Error() string {
	return fmt.Sprintf("attach %s: it is already attached to %s", e.File, e.Device.Path)
}

// Is implements errors.Is for ErrAttached.
func (e *AttachedError) Is(target error) bool { return target == ErrAttached }

// ErrShared means that the file has more than one name. A change through another name would go unnoticed.
var ErrShared = errors.New("file has more than one name")

// Options are the settings for attaching a file.
type Options struct {
	ReadOnly bool
	// DirectIO asks for I/O past the page cache of the file. On a filesystem that does not support it, the
	// kernel continues with buffered I/O: see Device.DirectIO.
	DirectIO bool
	// BlockSize is the logical block size in bytes: a power of two from 512 to the page size. If 0, the kernel chooses
	// it. The size of the file should be a multiple of it.
	BlockSize uint32
	// Sole makes Attach fail with ErrShared if the file has more than one name. Attach checks this after it has
	// attached the file. So a process that adds a name and then looks for a device of the file finds this device.
	Sole bool
}

// Device is an attached file. It exists as long as the Device is open or something else, such as a mount, uses it.
// After that the kernel detaches the file, even if this process was killed.
type Device struct {
	// Path is /dev/loopN. The kernel reuses the numbers, so never store the path.
	Path string
	// DirectIO reports whether the kernel really bypasses the page cache.
	DirectIO bool
	// BlockSize is the logical block size in bytes.
	BlockSize uint32
	// Inode is the inode number of the file.
	Inode uint64

	dev  *os.File
	file *os.File
}

// Close closes the device. If there is no other user, the file is detached at once. The second call returns
// os.ErrClosed.
func (d *Device) Close() error {
	err := d.dev.Close()
	if d.file != nil {
		err = errors.Join(err, d.file.Close())
	}
	return err
}

// attempts is how often one Attach tries to get a free device, because other processes can take the device first.
const attempts = 100

// replacements is how many devices that refuse discards one Attach tries to replace. After that, Attach uses a device
// that refuses discards. The only disadvantage is that the file keeps the space of discarded blocks.
const replacements = 8

// Attach attaches file, a regular file and not a symbolic link, to a free loop device. It creates a device if all are
// in use. It fails with ErrAttached if the file is already attached, by any process and under any name: files are
// compared by device and inode. Safe for concurrent use, also by several processes: if two attach the same file, one of
// them succeeds, and the other fails with ErrAttached.
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
			// If another process has the device open, its number remains.
			if err := dev.Close(); err != nil {
				return nil, err
			}
			_ = Remove(dev.Name())
			continue
		}
		if err == nil {
			if err := checkSole(f, opts); err != nil {
				return nil, errors.Join(err, dev.Close())
			}
			keep = true
			return verifyOptions(dev, f, opts)
		}
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("attach %s: %w", file, err)
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return nil, fmt.Errorf("attach %s: %w", file, err)
		}
	}
	return nil, fmt.Errorf("attach %s: lost %d races for a free loop device: %w", file, attempts, unix.EBUSY)
}

func checkSole(f *os.File, opts Options) error {
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
	// With O_NONBLOCK, the open does not wait if the name is a FIFO.
	f, err := os.OpenFile(file, mode|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	for errors.Is(err, unix.EAGAIN) {
		// Another Attach has a lease on the file for a moment: see openElsewhere.
		if err := sleep(ctx, time.Millisecond); err != nil {
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

// Claim locks f's file, so that nobody else can claim or attach it until f is closed. If another process has the lock
// for a moment, Claim waits. It fails with ErrAttached if the file is attached. The lock belongs to the open file
// description, which the loop device keeps open. So the lock lasts as long as the device, even after this process has
// ended, and prevents a second attachment without a search of all devices.
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
		// Another process has locked the file and is about to attach it, or its device is about to be detached.
		if err := sleep(ctx, time.Millisecond); err != nil {
			return fmt.Errorf("attach %s: another process holds its lock: %w", f.Name(), err)
		}
	}
}

type answer bool

const (
	no    answer = false
	maybe answer = true
)

// openElsewhere reports whether f's file may be open somewhere else, for example by a loop device. It asks for a write
// lease, which the kernel grants only for a file that is not open elsewhere (fcntl(2)). That is faster than reading all
// loop devices of the host.
func openElsewhere(f *os.File) answer {
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		return maybe
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK); err != nil {
		return maybe
	}
	return no
}

// OpenElsewhere reports whether f's file may be open through another descriptor than f. It returns true if the answer
// is unknown.
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
	// The name is for people (losetup -l). Its last byte must be 0.
	copy(cfg.Info.File_name[:len(cfg.Info.File_name)-1], f.Name())
	if err := unix.IoctlLoopConfigure(int(dev.Fd()), &cfg); err != nil {
		_ = dev.Close()
		return nil, fmt.Errorf("configure %s: %w", dev.Name(), err)
	}
	return dev, nil
}

// verifyOptions reads back the options that the kernel has applied: it falls back to buffered I/O without an error.
// file is nil for a device that another process has attached.
func verifyOptions(dev, file *os.File, opts Options) (*Device, error) {
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

// SetCapacity makes the device at path adopt the new size of its file. Idempotent.
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

// openDevice opens loop device n. If the device node is missing, it creates a temporary one: the /dev of a container is
// not a devtmpfs.
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
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	return os.OpenFile(path, mode|unix.O_CLOEXEC, 0)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
