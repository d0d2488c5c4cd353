package loopdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Info describes a loop device that has a file.
type Info struct {
	// Path is /dev/loopN, and Number is N.
	Path   string
	Number int
	// Backing is the path of the file as the kernel reports it. If the file was deleted, " (deleted)" follows.
	Backing string
	// Dev and Inode identify the file as stat(2) does. Both are 0 if the kernel does not report them.
	Dev, Inode uint64
	ReadOnly   bool
	DirectIO   bool
	Autoclear  bool
}

// List returns the loop devices of this host that have a file, in no particular order. It leaves out devices that lose
// their file meanwhile. If the file of a device cannot be examined because its disk has failed, Dev and Inode are 0.
func List() ([]Info, error) {
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, fmt.Errorf("list loop devices: %w", err)
	}
	list := make([]Info, 0, len(names))
	for _, name := range names {
		n, err := strconv.Atoi(strings.TrimPrefix(strings.Split(name, "/")[3], "loop"))
		if err != nil {
			return nil, fmt.Errorf("list loop devices: %w", err)
		}
		info, err := describe(n)
		if isGone(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list loop devices: %w", err)
		}
		list = append(list, info)
	}
	return list, nil
}

// describe reads one device. It fails with ENXIO if the device has no file.
func describe(n int) (Info, error) {
	dev, err := openDevice(devDir, n, true)
	if err != nil {
		return Info{}, err
	}
	defer dev.Close()
	backing, err := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/loop/backing_file", n))
	if err != nil {
		return Info{}, err
	}
	st, err := unix.IoctlLoopGetStatus64(int(dev.Fd()))
	switch {
	case isGone(err):
		return Info{}, fmt.Errorf("status of %s: %w", dev.Name(), err)
	case err != nil:
		return Info{Path: dev.Name(), Number: n, Backing: strings.TrimSuffix(string(backing), "\n")}, nil
	}
	return Info{
		Path:      dev.Name(),
		Number:    n,
		Backing:   strings.TrimSuffix(string(backing), "\n"),
		Dev:       st.Device,
		Inode:     st.Inode,
		ReadOnly:  st.Flags&unix.LO_FLAGS_READ_ONLY != 0,
		DirectIO:  st.Flags&unix.LO_FLAGS_DIRECT_IO != 0,
		Autoclear: st.Flags&unix.LO_FLAGS_AUTOCLEAR != 0,
	}, nil
}

func isGone(err error) bool {
	return errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) || errors.Is(err, os.ErrNotExist)
}

// FindByFile returns the device that has f's file. It compares device and inode, because the name of a file can change,
// and an old name can belong to another file.
func FindByFile(f *os.File) (Info, bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Info{}, false, fmt.Errorf("find the loop device of %s: %w", f.Name(), err)
	}
	list, err := List()
	if err != nil {
		return Info{}, false, err
	}
	for _, info := range list {
		if info.Dev == st.Dev && info.Inode == st.Ino {
			return info, true, nil
		}
	}
	return Info{}, false, nil
}

// Attached is like FindByFile. It does not read all devices of the host if no one else has the file open.
func Attached(f *os.File) (Info, bool, error) {
	if openElsewhere(f) == no {
		return Info{}, false, nil
	}
	return FindByFile(f)
}

// ErrGone means that a device has no file any more, or another one.
var ErrGone = errors.New("loop device no longer has that file")

// OpenExisting opens an existing device. The device keeps its file until Close, like a device that Attach returned. It
// fails with ErrGone if the device does not match info any more.
func OpenExisting(info Info) (*Device, error) {
	dev, err := openDevice(devDir, info.Number, true)
	if isGone(err) {
		err = ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("hold %s: %w", info.Path, err)
	}
	st, err := unix.IoctlLoopGetStatus64(int(dev.Fd()))
	if isGone(err) || err == nil && (st.Device != info.Dev || st.Inode != info.Inode) {
		err = ErrGone
	}
	if err != nil {
		_ = dev.Close()
		return nil, fmt.Errorf("hold %s: %w", info.Path, err)
	}
	return verifyOptions(dev, nil, Options{})
}
