package fsctl_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

const mib = 1 << 20

func patched(t *testing.T, size, off int64, data string) string {
	t.Helper()
	path := scratch.Image(t, "", size)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	defer f.Close()
	if off < 0 {
		off += size
	}
	_, err = f.WriteAt([]byte(data), off)
	require.NoError(t, err)
	return path
}

func TestIdentifyWhatToolsMake(t *testing.T) {
	swap := scratch.Image(t, "", 8*mib)
	scratch.Run(t, "mkswap", swap)
	tests := map[string]struct {
		path string
		want fsctl.Content
	}{
		"xfs":   {scratch.Image(t, "xfs", scratch.XFS), fsctl.HoldsXFS},
		"btrfs": {scratch.Image(t, "btrfs", scratch.Btrfs), fsctl.HoldsBtrfs},
		"ext4":  {scratch.Image(t, "ext4", scratch.Ext4), fsctl.HoldsExt},
		"swap":  {swap, fsctl.HoldsSwap},
	}
	for name, tt := range tests {
		if got, err := fsctl.Identify(tt.path); err != nil || got != tt.want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestIdentifySignatures(t *testing.T) {
	const size = 200*mib + 4096
	tests := map[string]struct {
		off  int64
		data string
		want fsctl.Content
	}{
		"LUKS":                  {0, "LUKS\xba\xbe", fsctl.HoldsLUKS},
		"LUKS2, second header":  {16384, "SKUL\xba\xbe", fsctl.HoldsLUKS},
		"btrfs, second copy":    {64*mib + 64, "_BHRfS_M", fsctl.HoldsBtrfs},
		"LVM":                   {512, "LABELONE", fsctl.HoldsLVM},
		"RAID 1.2":              {4096, "\xfc\x4e\x2b\xa9", fsctl.HoldsRAID},
		"RAID 1.0":              {-8192, "\xfc\x4e\x2b\xa9", fsctl.HoldsRAID},
		"RAID 0.90":             {200*mib - 64<<10, "\xfc\x4e\x2b\xa9", fsctl.HoldsRAID},
		"GPT":                   {512, "EFI PART", fsctl.HoldsGPT},
		"GPT on 4096":           {4096, "EFI PART", fsctl.HoldsGPT},
		"GPT, copy at the end":  {-512, "EFI PART", fsctl.HoldsGPT},
		"MBR":                   {510, "\x55\xaa", fsctl.HoldsMBR},
		"ISO":                   {32769, "CD001", fsctl.HoldsISO},
		"ZFS":                   {128<<10 + 3*1024, "\x0c\xb1\xba\x00\x00\x00\x00\x00", fsctl.HoldsZFS},
		"ZFS, other byte order": {128 << 10, "\x00\x00\x00\x00\x00\xba\xb1\x0c", fsctl.HoldsZFS},
		"ZFS, last label":       {200*mib - 128<<10, "\x0c\xb1\xba\x00\x00\x00\x00\x00", fsctl.HoldsZFS},
		"a byte at the start":   {0, "x", fsctl.OtherData},
		"a byte at the end":     {-1, "x", fsctl.OtherData},
		"a byte in the middle":  {100*mib + 77, "x", fsctl.OtherData},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := patched(t, size, tt.off, tt.data)
			for _, identify := range []func(string) (fsctl.Content, error){fsctl.Identify, fsctl.Known} {
				if got, err := identify(path); err != nil || got != tt.want {
					t.Errorf("%q, %v", got, err)
				}
			}
		})
	}
}

func TestIdentifyEmpty(t *testing.T) {
	for _, size := range []int64{0, 1, 511, 4096, 64 << 10, mib, 33 * mib, 4096 * mib} {
		if got, err := fsctl.Identify(scratch.Image(t, "", size)); err != nil || got != fsctl.Empty {
			t.Errorf("%d bytes: %q, %v", size, got, err)
		}
		if got, err := fsctl.Known(scratch.Image(t, "", size)); err != nil || got != fsctl.OtherData {
			t.Errorf("%d bytes, of what is known: %q, %v", size, got, err)
		}
	}
}

// The samples detect data that is spread over a large disk.
func TestIdentifySamplesLargeDisks(t *testing.T) {
	path := scratch.Image(t, "", 4096*mib)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteAt(make([]byte, 8*mib), 1000*mib)
	require.NoError(t, err)
	if got, err := fsctl.Identify(path); err != nil || got != fsctl.Empty {
		t.Errorf("zeros: %q, %v", got, err)
	}
	data := make([]byte, 8*mib)
	for i := range data {
		data[i] = 1
	}
	_, err = f.WriteAt(data, 1000*mib)
	require.NoError(t, err)
	if got, err := fsctl.Identify(path); err != nil || got != fsctl.OtherData {
		t.Errorf("data: %q, %v", got, err)
	}
}

func TestIdentifyErrors(t *testing.T) {
	if _, err := fsctl.Identify(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if _, err := fsctl.Identify(t.TempDir()); err == nil {
		t.Error("a directory holds nothing")
	}
}

// After a fence nobody can write, and everything from before is on the disk. That is also true if a killed process has
// left the filesystem frozen. A fence that fails changes nothing.
func TestFence(t *testing.T) {
	for fs, options := range map[string][]string{"xfs": {"nouuid"}, "ext4": nil} {
		t.Run(fs, func(t *testing.T) {
			image := scratch.Image(t, fs, scratch.XFS)
			at := scratch.MountImage(t, fs, image)
			file := filepath.Join(at, "file")
			write := func(text string) error { return os.WriteFile(file, []byte(text), 0o600) }
			failure := errors.New("failure")
			assert.ErrorIs(t, fsctl.Fence(t.Context(), open(t, at), func() error { return failure }), failure)
			assert.NoErrorf(t, write("before"), "after a fence that failed")
			dir := open(t, at)
			require.NoError(t, fsctl.Freeze(dir))
			copied := filepath.Join(t.TempDir(), "copy")
			err := fsctl.Fence(t.Context(), open(t, at), func() error {
				assert.ErrorIsf(t, fsctl.Freeze(dir), fsctl.ErrFrozen, "not frozen")
				scratch.Copy(t, image, copied)
				return nil
			})
			require.NoError(t, err)
			assert.ErrorIsf(t, write("after"), unix.EIO, "a write after the fence")
			got, err := os.ReadFile(filepath.Join(scratch.MountImage(t, fs, copied, options...), "file"))
			if string(got) != "before" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

// A fence does not wait for a disk that hangs. The filesystem stays usable when the disk answers again.
func TestFenceOfAHangingFilesystem(t *testing.T) {
	pool := scratch.Mount(t, "xfs", 512<<20)
	image := filepath.Join(pool, "image")
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, scratch.Ext4))
	scratch.Format(t, "ext4", image)
	at := scratch.MountImage(t, "ext4", image)
	require.NoError(t, os.WriteFile(filepath.Join(at, "file"), make([]byte, 1<<20), 0o600))
	disk := open(t, pool)
	require.NoError(t, fsctl.Freeze(disk))
	slow := errors.New("too slow")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, slow)
	defer cancel()
	err := fsctl.Fence(ctx, open(t, at), func() error { t.Error("it was frozen"); return nil })
	require.NoError(t, fsctl.Thaw(disk))
	assert.ErrorIs(t, err, slow)
	assert.NoError(t, os.WriteFile(filepath.Join(at, "file"), []byte("later"), 0o600))
}
