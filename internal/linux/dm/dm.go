// Package dm finds and removes devices of the device mapper with ioctl(2). It starts no program, and it neither needs
// nor creates the links of udev. Backend lvm reads volumes and thin pools with it, and package crypt its mappings. The
// package keeps no state, and its functions are safe for concurrent use. The requests to the kernel are in dm.go, and
// the metadata of thin pools is read in thin.go.
package dm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The errors of this package, for errors.Is.
var (
	// ErrAbsent means that no device has that name.
	ErrAbsent = errors.New("no such device")
	// ErrNoMapper means that the kernel has no device mapper.
	ErrNoMapper = errors.New("the kernel has no device mapper")
	// ErrNoTarget means that the kernel does not have a target. A target is a kind of mapping, such as thin-pool.
	ErrNoTarget = errors.New("the kernel has no such target")
)

// Device is one device.
type Device struct {
	Name, UUID   string
	Major, Minor uint32
	Open         int  // number of users that have it open or mounted, in all namespaces
	Suspended    bool // reads and writes wait until it is resumed
}

// Node returns the path of the device in devtmpfs.
func (d Device) Node() string { return fmt.Sprintf("/dev/dm-%d", d.Minor) }

// Target is the first target in the table of a device.
type Target struct {
	Type    string
	Sectors uint64 // of 512 bytes
	Status  string // the format depends on Type
}

const control = "/dev/mapper/control"

// From linux/dm-ioctl.h.
const (
	cmdList          = 2
	cmdRemove        = 4
	cmdDevStatus     = 7
	cmdDeps          = 11
	cmdTableStatus   = 12
	cmdTargetVersion = 17

	flagSuspended = 1 << 1
	flagFull      = 1 << 8 // the answer did not fit
	flagNoFlush   = 1 << 11
	flagDeferred  = 1 << 17

	maxBuffer = 16 << 20

	headerSize = 312
	nameAt     = 48
	nameLen    = 128
	uuidAt     = nameAt + nameLen
	uuidLen    = 129
	targetSize = 40
)

// Find returns the device with a name, as dmsetup(8) shows it. It fails with ErrAbsent if there is none, and with
// ErrNoMapper if the kernel has no device mapper.
func Find(name string) (Device, error) {
	buf, err := query(cmdDevStatus, name, 0)
	if err != nil {
		return Device{}, err
	}
	dev := binary.NativeEndian.Uint64(buf[40:])
	return Device{
		Name: text(buf[nameAt : nameAt+nameLen]), UUID: text(buf[uuidAt : uuidAt+uuidLen]),
		Major: unix.Major(dev), Minor: unix.Minor(dev),
		Open:      int(int32(binary.NativeEndian.Uint32(buf[24:]))),
		Suspended: binary.NativeEndian.Uint32(buf[28:])&flagSuspended != 0,
	}, nil
}

// Lookup is Find for a device that may be absent.
func Lookup(name string) (d Device, exists bool, err error) {
	d, err = Find(name)
	if errors.Is(err, ErrAbsent) || errors.Is(err, ErrNoMapper) {
		return d, false, nil
	}
	return d, err == nil, err
}

// Status returns the first target of a device with its status line. It does not make the device write out its metadata
// first (see Commit). Its errors are those of Find.
func Status(name string) (Target, error) {
	buf, err := query(cmdTableStatus, name, flagNoFlush)
	if err != nil {
		return Target{}, err
	}
	if binary.NativeEndian.Uint32(buf[20:]) == 0 {
		return Target{}, fmt.Errorf("device %s: %w", name, ErrAbsent) // it is being created or removed
	}
	start := binary.NativeEndian.Uint32(buf[16:])
	if uint64(start)+targetSize > uint64(len(buf)) {
		return Target{}, fmt.Errorf("status of device %s: the response of the kernel is too long", name)
	}
	spec := buf[start:]
	return Target{
		Type:    text(spec[24:targetSize]),
		Sectors: binary.NativeEndian.Uint64(spec[8:]),
		Status:  text(spec[targetSize:]),
	}, nil
}

// Commit makes a thin pool write its new metadata to disk.
func Commit(name string) error {
	_, err := query(cmdTableStatus, name, 0)
	return err
}

// HasTarget fails with ErrNoTarget unless the kernel has a target. It loads the module of the target if needed.
func HasTarget(kind string) error {
	_, err := query(cmdTargetVersion, kind, 0)
	switch {
	case errors.Is(err, unix.ENOTTY): // Linux before 5.4
		return nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, ErrAbsent):
		return fmt.Errorf("%w: %s", ErrNoTarget, kind)
	}
	return err
}

// query performs one request for a name, and returns the answer.
func query(cmd uintptr, name string, flags uint32) ([]byte, error) {
	f, err := os.OpenFile(control, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return nil, ErrNoMapper
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return exchange(name, flags, func(buf []byte) error {
		for {
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0xC000FD00|headerSize<<16|cmd,
				uintptr(unsafe.Pointer(&buf[0])))
			runtime.KeepAlive(buf)
			switch errno {
			case 0:
				return nil
			case unix.EINTR:
			case unix.ENXIO:
				return fmt.Errorf("device %s: %w", name, ErrAbsent)
			default:
				return fmt.Errorf("device %s: ask the device mapper: %w", name, errno)
			}
		}
	})
}

// exchange performs a request, and repeats it with a larger buffer if the answer does not fit: a host may have
// thousands of mappings.
func exchange(name string, flags uint32, ask func(buf []byte) error) ([]byte, error) {
	if len(name) >= nameLen {
		return nil, fmt.Errorf("device %.20s…: %w", name, unix.ENAMETOOLONG)
	}
	ne := binary.NativeEndian
	for size := uint32(16 << 10); size <= maxBuffer; size *= 4 {
		buf := make([]byte, size)
		ne.PutUint32(buf, 4) // the interface's version is 4.0.0 at least
		ne.PutUint32(buf[12:], size)
		ne.PutUint32(buf[16:], headerSize)
		ne.PutUint32(buf[28:], flags)
		copy(buf[nameAt:], name)
		if err := ask(buf); err != nil {
			return nil, err
		}
		if ne.Uint32(buf[28:])&flagFull == 0 {
			return buf, nil
		}
	}
	return nil, fmt.Errorf("device mapper: the response is longer than %d MiB", maxBuffer>>20)
}

// List returns the names of all devices of this host. It returns none if the kernel has no device mapper.
func List() ([]string, error) {
	buf, err := query(cmdList, "", 0)
	if errors.Is(err, ErrNoMapper) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list mappings: %w", err)
	}
	return listed(buf), nil
}

// listed parses the answer of LIST.
func listed(buf []byte) (names []string) {
	for at := headerSize; ; { // struct dm_name_list: dev, offset of the next, name
		if at+12 >= len(buf) || binary.NativeEndian.Uint64(buf[at:]) == 0 {
			return names
		}
		names = append(names, text(buf[at+12:]))
		next := int(binary.NativeEndian.Uint32(buf[at+8:]))
		if next == 0 {
			return names
		}
		at += next
	}
}

// IsOn reports whether a device is a mapping on the block device at a path. It fails with ErrAbsent if the device is
// gone.
func (d Device) IsOn(path string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return false, fmt.Errorf("stat %s: %w", path, err)
	}
	buf, err := query(cmdDeps, d.Name, 0)
	if err != nil {
		return false, err
	}
	at := int(binary.NativeEndian.Uint32(buf[16:])) // struct dm_target_deps
	n := int(binary.NativeEndian.Uint32(buf[at:]))
	for i := range n {
		if binary.NativeEndian.Uint64(buf[at+8+8*i:]) == uint64(st.Rdev) { //nolint:unconvert // may be uint32
			return true, nil
		}
	}
	return false, nil
}

// Drop removes a device: at once, or when its last user closes it. It returns nil if there is no such device.
func Drop(name string) error {
	_, err := query(cmdRemove, name, flagDeferred)
	if errors.Is(err, ErrAbsent) || errors.Is(err, ErrNoMapper) {
		return nil
	}
	return err
}

// text returns the string in b that ends with a zero byte.
func text(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

// Mangle returns the device mapper name of a logical volume, or of one of its layers, as LVM builds it: each "-" in a
// part is doubled, and a single "-" separates the parts.
func Mangle(parts ...string) string {
	doubled := make([]string, len(parts))
	for i, p := range parts {
		doubled[i] = strings.ReplaceAll(p, "-", "--")
	}
	return strings.Join(doubled, "-")
}
