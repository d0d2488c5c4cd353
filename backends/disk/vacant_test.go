package disk

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

const size = 512 << 20

func sum(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	h := sha256.New()
	for _, off := range []int64{0, size - 2<<20} {
		_, err := io.Copy(h, io.NewSectionReader(f, off, 2<<20))
		require.NoError(t, err)
	}
	return string(h.Sum(nil))
}

func writeAt(t *testing.T, path string, off int64, data string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte(data), off)
	require.NoError(t, errors.Join(err, f.Sync(), f.Close()))
}

// A device with content, or in use, is refused. The error names the content or use, and the command that frees the
// device. The device is not changed.
func TestNotVacant(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, device string)
		kind  error
		says  []string
	}{
		"ext4": {
			func(t *testing.T, d string) { scratch.Format(t, "ext4", d) }, dataset.ErrExists,
			[]string{"an ext2, ext3 or ext4", "wipefs -a", "blkdiscard"},
		},
		"xfs": {
			func(t *testing.T, d string) { scratch.Format(t, "xfs", d) }, dataset.ErrExists,
			[]string{"an XFS filesystem"},
		},
		"btrfs": {
			func(t *testing.T, d string) { scratch.Format(t, "btrfs", d) }, dataset.ErrExists,
			[]string{"a btrfs filesystem"},
		},
		"swap": {
			func(t *testing.T, d string) { scratch.Run(t, "mkswap", d) }, dataset.ErrExists, []string{"swap space"},
		},
		"lvm": {
			func(t *testing.T, d string) { writeAt(t, d, 512, "LABELONE") }, dataset.ErrExists,
			[]string{"an LVM physical volume"},
		},
		"raid": {
			func(t *testing.T, d string) { writeAt(t, d, size-8192, "\xfc\x4e\x2b\xa9") }, dataset.ErrExists,
			[]string{"a Linux RAID"},
		},
		"luks": {
			func(t *testing.T, d string) { writeAt(t, d, 0, "LUKS\xba\xbe") }, dataset.ErrExists,
			[]string{"a LUKS container"},
		},
		"gpt": {
			func(t *testing.T, d string) { writeAt(t, d, 512, "EFI PART") }, dataset.ErrExists,
			[]string{"a GPT partition table"},
		},
		"luks 2": {
			func(t *testing.T, d string) { writeAt(t, d, 16384, "SKUL\xba\xbe") }, dataset.ErrExists,
			[]string{"a LUKS container"},
		},
		"zfs": {func(t *testing.T, d string) {
			writeAt(t, d, size-(256<<10)+(128<<10), "\x0c\xb1\xba\x00\x00\x00\x00\x00")
		}, dataset.ErrExists, []string{"a member of a ZFS pool"}},
		"mounted partition": {func(t *testing.T, d string) {
			parted(t, d)
			mounted("xfs")(t, d+"p1")
			if err := CheckVacant(d + "p2"); err != nil { // the other one is unused
				t.Error(err)
			}
		}, dataset.ErrExists, []string{"has partitions: loop"}},
		"first": {
			func(t *testing.T, d string) { writeAt(t, d, 1<<20, "x") }, dataset.ErrExists,
			[]string{"data of an unknown kind", "blkdiscard -z -f"},
		},
		"last": {
			func(t *testing.T, d string) { writeAt(t, d, size-1<<20, "x") }, dataset.ErrExists,
			[]string{"data of an unknown kind"},
		},
		"mounted":   {mounted("xfs"), dataset.ErrInUse, []string{"is mounted at", "umount"}},
		"mounted 2": {mounted("btrfs"), dataset.ErrInUse, []string{"is mounted at"}},
		"in use": {func(t *testing.T, d string) {
			fd, err := unix.Open(d, unix.O_RDONLY|unix.O_EXCL, 0)
			require.NoError(t, err)
			t.Cleanup(func() { unix.Close(fd) })
		}, dataset.ErrInUse, []string{"lsblk", "fuser -v"}},
		"swapped on": {func(t *testing.T, d string) {
			scratch.Run(t, "mkswap", d)
			scratch.Run(t, "swapon", d)
			t.Cleanup(func() { scratch.Run(t, "swapoff", d) })
		}, dataset.ErrInUse, []string{"swapoff"}},
		"partitions": {func(t *testing.T, d string) {
			parted(t, d)
		}, dataset.ErrExists, []string{"has partitions: loop", "wipefs -a"}},
	} {
		t.Run(name, func(t *testing.T) {
			device := scratch.Disk(t, size)
			require.NoErrorf(t, CheckVacant(device), "before")
			c.spoil(t, device)
			before := sum(t, device)
			refused(t, CheckVacant(device), c.kind, append(c.says, device)...)
			link := filepath.Join(t.TempDir(), "link")
			require.NoError(t, os.Symlink(device, link))
			refused(t, CheckVacant(link), c.kind, append(c.says, link)...)
			if sum(t, device) != before {
				t.Error("it was changed")
			}
		})
	}
}

// parted makes two partitions, of 400 and of 64 MiB.
func parted(t *testing.T, d string) {
	writeAt(t, d, 446, "\x00\x00\x00\x00\x83\x00\x00\x00\x00\x08\x00\x00\x00\x80\x0c\x00")
	writeAt(t, d, 462, "\x00\x00\x00\x00\x83\x00\x00\x00\x00\x88\x0c\x00\x00\x00\x02\x00")
	writeAt(t, d, 510, "\x55\xaa")
	scratch.Run(t, "partx", "-a", d)
	t.Cleanup(func() { scratch.Run(t, "partx", "-d", d) })
}

func refused(t *testing.T, err, kind error, says ...string) {
	t.Helper()
	if !errors.Is(err, kind) || strings.Contains(err.Error(), "\n") {
		t.Fatalf("%v, want %v", err, kind)
	}
	for _, word := range says {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}
}

func mounted(fs string) func(t *testing.T, device string) {
	return func(t *testing.T, device string) {
		scratch.Format(t, fs, device)
		at := t.TempDir()
		// Read-only: a filesystem that can be written to changes its device by itself.
		spec := mount.Spec{Source: device, FSType: fs, ReadOnly: true}
		require.NoError(t, mount.Mount(at, spec))
		t.Cleanup(func() {
			assert.NoError(t, mount.Unmount(at))
		})
	}
}

// Everything except a writable block device is refused, and the error names its kind.
func TestNoDevice(t *testing.T) {
	dir := t.TempDir()
	image := scratch.Image(t, "", size)
	readOnly, err := loopdev.Attach(t.Context(), scratch.Image(t, "", size), loopdev.Options{ReadOnly: true})
	require.NoError(t, err)
	defer readOnly.Close()
	for path, says := range map[string]string{
		"loop0": "bad device", dir + "/none": "no such device", dir: "a directory",
		image: "--image SIZE", "/dev/null": "a character device",
	} {
		refused(t, CheckVacant(path), dataset.ErrInvalid, says)
	}
	// A device without a disk, such as a loop device without a file.
	for try := 0; try < 100 && !errors.Is(err, dataset.ErrUnsupported); try++ { // another test may take the device
		free, e := loopdev.Attach(t.Context(), scratch.Image(t, "", size), loopdev.Options{})
		require.NoError(t, e)
		require.NoError(t, free.Close())
		err = CheckVacant(free.Path)
	}
	refused(t, err, dataset.ErrUnsupported, "no medium is inserted")
	refused(t, CheckVacant(readOnly.Path), dataset.ErrUnsupported, "--setrw")
}

// The command that a refusal names frees the device.
func TestFreed(t *testing.T) {
	device := scratch.Disk(t, size)
	scratch.Format(t, "ext4", device)
	scratch.Run(t, "wipefs", "-q", "-a", device)
	scratch.Run(t, "blkdiscard", "-z", device)
	assert.NoError(t, CheckVacant(device))
}

// The error for a missing device names the content of the configured device only if that device has other content. It
// names no content if the configured path is not a device.
func TestReasonOfAMissingDevice(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(file, make([]byte, 1<<20), 0o600))
	_, err := members(uuid.New(), fsctl.XFS, []string{file})
	require.ErrorIs(t, err, dataset.ErrOffline)
	want := file + " is a file: for a pool in a file use --path FILE and --image SIZE)"
	if !strings.HasSuffix(err.Error(), want) {
		t.Errorf("%q does not end with %q", err, want)
	}
}

func TestMain(m *testing.M) { os.Exit(scratch.Main(m)) }
