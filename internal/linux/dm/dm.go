// Package dm reads the state of device mapper devices with ioctl(2). It starts no program, and it neither needs nor
// creates the links of udev. Backend lvm calls it to read volumes and thin pools. The package keeps no state, and its
// functions are safe for concurrent use. The requests to the kernel are in dm.go, and the metadata of thin pools is
// read in thin.go.
package dm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
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
	cmdDevStatus     = 7
	cmdTableStatus   = 12
	cmdTargetVersion = 17

	flagSuspended = 1 << 1
	flagFull      = 1 << 8 // the answer did not fit
	flagNoFlush   = 1 << 11

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
	if binary.NativeEndian.Uint32(buf[28:])&flagFull != 0 || uint64(start)+targetSize > uint64(len(buf)) {
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

func query(cmd uintptr, name string, flags uint32) ([]byte, error) {
	if len(name) >= nameLen {
		return nil, fmt.Errorf("device %s: %w", name, unix.ENAMETOOLONG)
	}
	f, err := os.OpenFile(control, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return nil, ErrNoMapper
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := make([]byte, 16<<10)
	binary.NativeEndian.PutUint32(buf, 4) // the interface's version is 4.0.0 at least
	binary.NativeEndian.PutUint32(buf[12:], uint32(len(buf)))
	binary.NativeEndian.PutUint32(buf[16:], headerSize)
	binary.NativeEndian.PutUint32(buf[28:], flags)
	copy(buf[nameAt:], name)
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0xC000FD00|headerSize<<16|cmd,
			uintptr(unsafe.Pointer(&buf[0])))
		switch errno {
		case 0:
			return buf, nil
		case unix.EINTR:
		case unix.ENXIO:
			return nil, fmt.Errorf("device %s: %w", name, ErrAbsent)
		default:
			return nil, fmt.Errorf("device %s: ask the device mapper: %w", name, errno)
		}
	}
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
