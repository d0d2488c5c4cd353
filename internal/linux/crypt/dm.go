package crypt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// This file uses the ioctls of the device mapper (linux/dm-ioctl.h) to find and remove mappings. That starts no
// process, and does not depend on udev.

const (
	control = "/dev/mapper/control"

	headSize   = 312 // struct dm_ioctl
	bufSize    = 16 << 10
	maxBufSize = 16 << 20

	cmdList          = 2
	cmdRemove        = 4
	cmdStatus        = 7
	cmdDeps          = 11
	cmdTargetVersion = 17

	flagBufferFull = 1 << 8
	flagDeferred   = 1 << 17
)

// request performs one ioctl for a name, and returns the answer.
func request(cmd uintptr, name string, flags uint32) ([]byte, error) {
	ctl, err := os.OpenFile(control, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("device mapper: %w", err)
	}
	defer ctl.Close()
	const dir, group = 3, 0xfd // _IOWR of asm-generic/ioctl.h
	code := uintptr(dir)<<30 | uintptr(headSize)<<16 | uintptr(group)<<8 | cmd
	return exchange(name, flags, func(buf []byte) error {
		for {
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, ctl.Fd(), code, uintptr(unsafe.Pointer(&buf[0])))
			runtime.KeepAlive(buf)
			if errno == 0 {
				return nil
			}
			if errno != unix.EINTR {
				return errno
			}
		}
	})
}

// exchange performs an ioctl, and repeats it with a larger buffer if the answer does not fit: a host may have thousands
// of mappings.
func exchange(name string, flags uint32, ask func(buf []byte) error) ([]byte, error) {
	const nameAt, nameSize = 48, 128
	if len(name) >= nameSize {
		return nil, fmt.Errorf("device mapper: name %.20s… is too long", name)
	}
	ne := binary.NativeEndian
	for size := uint32(bufSize); size <= maxBufSize; size *= 4 {
		buf := make([]byte, size)
		ne.PutUint32(buf[0:], 4) // version 4.0.0 of the interface is sufficient
		ne.PutUint32(buf[12:], size)
		ne.PutUint32(buf[16:], headSize)
		ne.PutUint32(buf[28:], flags)
		copy(buf[nameAt:], name)
		if err := ask(buf); err != nil {
			return nil, err
		}
		if ne.Uint32(buf[28:])&flagBufferFull == 0 {
			return buf, nil
		}
	}
	return nil, fmt.Errorf("device mapper: the response is longer than %d MiB", maxBufSize>>20)
}

// Mapping is a device of the device mapper.
type Mapping struct {
	Name  string
	Major uint32
	Minor uint32
	Users int // number of users that have it open; a mount counts as one
}

// Path returns the path of the mapping's device.
func (m Mapping) Path() string { return fmt.Sprintf("/dev/dm-%d", m.Minor) }

// Find returns the mapping with a name. ok is false if there is none.
func Find(name string) (m Mapping, ok bool, err error) {
	buf, err := request(cmdStatus, name, 0)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return m, false, nil
	}
	if err != nil {
		return m, false, fmt.Errorf("find mapping %s: %w", name, err)
	}
	dev := binary.NativeEndian.Uint64(buf[40:])
	users := int32(binary.NativeEndian.Uint32(buf[24:])) //nolint:gosec // an int32 in the kernel
	return Mapping{Name: name, Major: unix.Major(dev), Minor: unix.Minor(dev), Users: int(users)}, true, nil
}

// List returns the names of all mappings of this host. It returns none if the kernel has no device mapper.
func List() ([]string, error) {
	buf, err := request(cmdList, "", 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list mappings: %w", err)
	}
	return listed(buf), nil
}

// listed parses the answer of LIST.
func listed(buf []byte) (names []string) {
	for at := headSize; ; { // struct dm_name_list: dev, offset of the next, name
		if at+12 >= len(buf) || binary.NativeEndian.Uint64(buf[at:]) == 0 {
			return names
		}
		name, _, _ := bytes.Cut(buf[at+12:], []byte{0})
		names = append(names, string(name))
		next := int(binary.NativeEndian.Uint32(buf[at+8:]))
		if next == 0 {
			return names
		}
		at += next
	}
}

// isOn reports whether a mapping is on the given device.
func (m Mapping) isOn(device string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return false, fmt.Errorf("stat %s: %w", device, err)
	}
	buf, err := request(cmdDeps, m.Name, 0)
	if err != nil {
		return false, fmt.Errorf("find mapping %s: %w", m.Name, err)
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

// Drop removes a mapping: at once, or when its last user closes it. It returns nil if there is no such mapping.
func Drop(name string) error {
	_, err := request(cmdRemove, name, flagDeferred)
	if err != nil && !errors.Is(err, unix.ENXIO) && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove mapping %s: %w", name, err)
	}
	return nil
}

// checkTarget fails with ErrUnsupported if the kernel does not have dm-crypt. It loads the module if needed.
func checkTarget() error {
	_, err := request(cmdTargetVersion, "crypt", 0)
	switch {
	case err == nil, errors.Is(err, unix.ENOTTY): // kernels before 5.4 do not have this request
		return nil
	case errors.Is(err, os.ErrPermission):
		return dataset.Errorf(dataset.ErrUnsupported, "encryption needs root (CAP_SYS_ADMIN): %w", err)
	}
	return dataset.Errorf(dataset.ErrUnsupported,
		"encryption needs dm-crypt, which this kernel lacks (modprobe dm-crypt): %w", err)
}
