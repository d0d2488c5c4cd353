// Package crypt creates and opens LUKS2 containers (dm-crypt) on block devices with cryptsetup. Keys are passed only on
// the standard input of cryptsetup, so they appear in no argument vector, file or error. A mapping removes itself after
// its last user has closed it, as a loop device does, even if this process is killed. Only a mapping whose process was
// killed while it opened the mapping can remain: RemoveUnused removes it. Backends loop and lvm call the package, and
// so does the agent's doctor. The package keeps no state: which mappings exist is read from the kernel. A [Tool] is
// safe for concurrent use.
//
// The key of a container is random and as long as the volume key that it protects. So no key derivation is needed, and
// opening a container takes no longer than starting a process. How cryptsetup is called is in crypt.go, and how
// mappings are found and removed in package dm.
package crypt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/dm"
	"github.com/droverhq/drover/internal/run"
)

const program = "cryptsetup"

// Overhead is how much of its device a container uses for itself, in bytes: two headers of 16 KiB, and one key slot of
// 252 KiB in an area of 512 KiB, rounded up to 1 MiB, where the payload starts.
const Overhead = 1 << 20

// sector is the unit of encryption in bytes. Filesystems write at least that much.
const sector = 4096

const (
	headerRead   = 512
	metadataSize = 16 << 10
	secondMagic  = "SKUL\xba\xbe\x00\x02"
)

const (
	formatTimeout = time.Minute
	openTimeout   = 30 * time.Second
	// These two bound the wait for a mapping that is being removed, and for a program such as udev that briefly opens a
	// new mapping.
	removeTries = 200
	removePause = 10 * time.Millisecond
)

// Tool makes and opens containers. It is safe for concurrent use.
type Tool struct{ runner run.Runner }

// New returns a Tool that runs cryptsetup with runner.
func New(runner run.Runner) Tool { return Tool{runner} }

// Available returns nil if containers can be opened on this host. Otherwise it fails with ErrUnsupported. The error
// names the missing part and the command that installs it. Missing kernel features are reported first, because no
// package provides them.
func Available() error {
	_, missing := run.LookPath(program)
	problem := checkTarget()
	switch {
	case missing == nil:
		return problem
	case problem != nil:
		return fmt.Errorf("%w; it also needs cryptsetup (apt-get install cryptsetup-bin)", problem)
	}
	return dataset.Errorf(dataset.ErrUnsupported, "encryption needs cryptsetup (apt-get install cryptsetup-bin)")
}

// Header reports whether a device or file starts with a LUKS2 container, and returns the UUID of the container. It
// fails with ErrCorrupt if the header is damaged or has another version.
func Header(r io.ReaderAt) (id uuid.UUID, isContainer bool, err error) {
	const versionAt, uuidAt, uuidSize = 6, 168, 40 // struct luks2_hdr_disk
	buf := make([]byte, headerRead)
	if _, err := r.ReadAt(buf, 0); err != nil && !errors.Is(err, io.EOF) {
		return id, false, err
	}
	if !bytes.HasPrefix(buf, []byte("LUKS\xba\xbe")) {
		return id, false, nil
	}
	text, _, _ := bytes.Cut(buf[uuidAt:uuidAt+uuidSize], []byte{0})
	id, err = uuid.ParseBytes(text)
	other := buf[versionAt] != 0 || buf[versionAt+1] != 2
	if other || err != nil {
		if lost := CheckFirstHeader(r); lost != nil {
			return uuid.Nil, true, lost
		}
	}
	switch {
	case other:
		return uuid.Nil, true, dataset.Errorf(dataset.ErrCorrupt,
			"a LUKS container of version %d, and Drover creates version 2",
			int(buf[versionAt])<<8|int(buf[versionAt+1]))
	case err != nil:
		return uuid.Nil, true, dataset.Errorf(dataset.ErrCorrupt, "a LUKS container without a UUID")
	}
	return id, true, nil
}

// CheckFirstHeader fails with ErrCorrupt if r has the second header of a LUKS2 container but no usable first one. The
// error names the command that repairs it. Call it only for devices without a filesystem: a user who can write to a
// filesystem can write such a header to its device. The second header follows the first one, which has 16 KiB if Format
// created it.
func CheckFirstHeader(r io.ReaderAt) error {
	buf := make([]byte, len(secondMagic))
	if _, err := r.ReadAt(buf, metadataSize); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if string(buf) != secondMagic {
		return nil
	}
	path := "DEVICE"
	if named, ok := r.(interface{ Name() string }); ok {
		path = named.Name()
	}
	return dataset.Errorf(dataset.ErrCorrupt,
		"the first header of its LUKS container is damaged, but the second one is intact: cryptsetup repair %s", path)
}

// Format creates a container with a UUID on a device. It overwrites the content of the device.
func (t Tool) Format(ctx context.Context, device string, id uuid.UUID, key []byte) error {
	err := t.run(ctx, formatTimeout, key, "luksFormat", "--batch-mode", "--type", "luks2", "--uuid", id.String(),
		"--cipher", "aes-xts-plain64", "--key-size", "512", "--sector-size", fmt.Sprint(sector),
		"--hash", "sha256", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
		"--luks2-metadata-size", fmt.Sprint(metadataSize), "--luks2-keyslots-size", "512k", "--offset",
		fmt.Sprint(Overhead/512),
		"--key-file=-", device)
	if err != nil {
		return fmt.Errorf("encrypt %s: %w", device, err)
	}
	return nil
}

// Device is an open container. The mapping exists as long as the Device is open or something else, such as a mount,
// uses it.
type Device struct {
	dm.Device
	file *os.File
}

// Path returns the path of the block device with the payload of the container.
func (d *Device) Path() string { return d.file.Name() }

// ReadAt reads from the payload, like io.ReaderAt.
func (d *Device) ReadAt(b []byte, off int64) (int, error) { return d.file.ReadAt(b, off) }

// Seek works like io.Seeker on the payload.
func (d *Device) Seek(offset int64, whence int) (int64, error) { return d.file.Seek(offset, whence) }

// Size returns the size of the payload in bytes.
func (d *Device) Size() (int64, error) { return d.Seek(0, io.SeekEnd) }

// Close closes the device. The second call returns os.ErrClosed.
func (d *Device) Close() error { return d.file.Close() }

// Open opens the container on a device. name is the name of the mapping. If the mapping exists already, Open uses it,
// without a check of the key. Open waits up to about two seconds for an earlier mapping with that name to disappear. It
// fails with ErrInUse if it does not, for example because the mapping is on another device and in use, and with
// ErrForbidden if the key does not open the container.
func (t Tool) Open(ctx context.Context, device, name string, key []byte) (*Device, error) {
	for try := 0; ; try++ {
		dev, err := t.open(ctx, device, name, key)
		if err == nil {
			return dev, nil
		}
		if try == removeTries || ctx.Err() != nil || !errors.Is(err, errAgain) {
			if errors.Is(err, errAgain) {
				err = dataset.Errorf(dataset.ErrInUse, "open the container on %s: %w", device, err)
			}
			return nil, errors.Join(err, abandonMapping(device, name))
		}
		select {
		case <-ctx.Done():
		case <-time.After(removePause):
		}
	}
}

// abandonMapping removes the mapping on a device that could not be opened: cryptsetup may have created it before it
// failed. A mapping that another process has open stays until that process closes it.
func abandonMapping(device, name string) error {
	removeNode(name)
	m, exists, err := dm.Lookup(name)
	if err != nil || !exists {
		return err
	}
	if isOnDevice, err := m.IsOn(device); err != nil || !isOnDevice {
		if errors.Is(err, dm.ErrAbsent) {
			err = nil
		}
		return err
	}
	return dm.Drop(name)
}

var errAgain = errors.New("mapping is being removed, or is foreign") //nolint:gochecknoglobals // a sentinel

func (t Tool) open(ctx context.Context, device, name string, key []byte) (*Device, error) {
	m, exists, err := dm.Lookup(name)
	if err != nil {
		return nil, err
	}
	if exists {
		isOnDevice, err := m.IsOn(device)
		if errors.Is(err, dm.ErrAbsent) {
			return nil, errAgain
		}
		if err != nil {
			return nil, err
		}
		if !isOnDevice {
			// A killed process has left this mapping, and its device may not exist any more.
			return nil, errors.Join(fmt.Errorf("%w (%s)", errAgain, name), dm.Drop(name))
		}
		return openMapping(m)
	}
	err = t.run(ctx, openTimeout, key, "open", "--type", "luks2", "--allow-discards", "--key-file=-", device, name)
	if err != nil {
		return nil, fmt.Errorf("open the container on %s: %w", device, err)
	}
	if m, exists, err = dm.Lookup(name); err != nil {
		return nil, err
	}
	if !exists {
		return nil, errAgain
	}
	return openMapping(m)
}

// openMapping opens the device of a mapping, and makes the mapping remove itself after its last user.
func openMapping(m dm.Device) (*Device, error) {
	path, err := node(m)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) || errors.Is(err, os.ErrNotExist) {
		return nil, errAgain
	}
	if err != nil {
		return nil, fmt.Errorf("open mapping %s: %w", m.Name, err)
	}
	current, exists, err := dm.Lookup(m.Name)
	if err == nil && (!exists || current.Major != m.Major || current.Minor != m.Minor) {
		err = errAgain
	}
	if err == nil {
		err = dm.Drop(m.Name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	removeNode(m.Name)
	return &Device{current, f}, nil
}

// node returns the path of a mapping's device. It creates the device node if it is missing: the /dev of a container is
// not a devtmpfs.
func node(m dm.Device) (string, error) {
	path := m.Node()
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	if errors.Is(err, unix.ENOENT) {
		err = unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(m.Major, m.Minor)))
		if errors.Is(err, unix.EEXIST) {
			err = nil
		}
	}
	if err != nil {
		return "", fmt.Errorf("device of mapping %s: %w", m.Name, err)
	}
	return path, nil
}

// removeNode removes the device node that cryptsetup creates itself if no udev runs. It would remain after the mapping
// is removed.
func removeNode(name string) {
	path := "/dev/mapper/" + name
	if fi, err := os.Lstat(path); err == nil && fi.Mode()&os.ModeDevice != 0 {
		_ = os.Remove(path)
	}
}

// CheckKey fails with dataset.ErrForbidden unless the key opens the container in path, which is a device or a file. A
// device may be in use. A file must not be attached to a loop device by package loopdev: such a file is locked with
// flock(2), and cryptsetup would wait for the lock.
func (t Tool) CheckKey(ctx context.Context, path string, key []byte) error {
	err := t.run(ctx, openTimeout, key, "open", "--test-passphrase", "--type", "luks2", "--key-file=-", path)
	if err != nil {
		return fmt.Errorf("check whether the container in %s can be opened: %w", path, err)
	}
	return nil
}

// Resize grows an open container to the size of its device, and returns the new size of its payload in bytes. name is
// the name of its mapping, and path that of its device. It fails with ErrForbidden if the key does not open the
// container.
func (t Tool) Resize(ctx context.Context, name, path string, key []byte) (int64, error) {
	err := t.run(ctx, openTimeout, key, "resize", "--key-file=-", name)
	removeNode(name)
	if err != nil {
		return 0, fmt.Errorf("resize mapping %s: %w", name, err)
	}
	dev, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	size, err := dev.Seek(0, io.SeekEnd)
	return size, errors.Join(err, dev.Close())
}

// RemoveUnused removes the mappings of a pool that are not open, such as those of a killed process. suffix ends their
// names. It waits up to about two seconds until they no longer exist, and returns nil even if some remain after that
// time. It works without cryptsetup, which may have been uninstalled.
func RemoveUnused(suffix string) error {
	for range removeTries {
		names, err := dm.List()
		if err != nil {
			return err
		}
		remaining := false
		for _, name := range names {
			if !strings.HasPrefix(name, "drover-") || !strings.HasSuffix(name, suffix) {
				continue
			}
			m, exists, err := dm.Lookup(name)
			if err != nil {
				return err
			}
			if remaining = remaining || exists && m.Open == 0; exists && m.Open == 0 {
				if err := dm.Drop(name); err != nil {
					return err
				}
			}
		}
		if !remaining {
			return nil
		}
		<-time.After(removePause)
	}
	return nil
}

func (t Tool) run(ctx context.Context, timeout time.Duration, key []byte, args ...string) error {
	c := run.Command{Name: program, Args: args, Timeout: timeout, Stdin: bytes.NewReader(key)}
	// Without udev, libdevmapper would wait forever for it.
	if _, err := os.Stat("/run/udev/control"); err != nil {
		c.Env = []string{"DM_DISABLE_UDEV=1"}
	}
	_, err := t.runner.Run(ctx, c)
	var failed *run.Error
	const wrongKey = 2 // cryptsetup(8)
	if errors.As(err, &failed) && failed.ExitCode == wrongKey {
		return dataset.Errorf(dataset.ErrForbidden, "the recorded data key does not open it")
	}
	return err
}

// checkTarget fails with ErrUnsupported if the kernel does not have dm-crypt. It loads the module if needed.
func checkTarget() error {
	err := dm.HasTarget("crypt")
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrPermission):
		return dataset.Errorf(dataset.ErrUnsupported, "encryption needs root (CAP_SYS_ADMIN): %w", err)
	}
	return dataset.Errorf(dataset.ErrUnsupported,
		"encryption needs dm-crypt, which this kernel lacks (modprobe dm-crypt): %w", err)
}
