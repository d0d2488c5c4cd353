package loopdev

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/require"
)

// TestStackedDevices: devices of device-mapper are named as dmsetup names them, also if they are on a partition.
func TestStackedDevices(t *testing.T) {
	sys := t.TempDir()
	for _, dir := range []string{
		"loop3/holders/dm-0", "loop3/loop3p1/holders/dm-1", "loop3/loop3p2/holders", "loop3/holders/md7",
		"loop33/holders/dm-2", "dm-0/dm", "dm-1/dm", "md7", "loop4/holders",
	} {
		require.NoError(t, os.MkdirAll(filepath.Join(sys, dir), 0o755))
	}
	for device, name := range map[string]string{"dm-0": "vg-data", "dm-1": "secret"} {
		require.NoError(t, os.WriteFile(filepath.Join(sys, device, "dm/name"), []byte(name+"\n"), 0o644))
	}
	for device, want := range map[string][]string{
		"loop3": {"/dev/mapper/vg-data", "/dev/md7", "/dev/mapper/secret"}, "loop4": nil, "loop5": nil,
	} {
		if got, err := stackedOn(sys, device); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v", device, got, err)
		}
	}
}

// The /dev of a container lacks the nodes of devices that were created after its start.
func TestMissingNodeIsMade(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		dev, err := openDevice(dir, 3, true)
		require.NoError(t, err)
		dev.Close()
	}
	var st unix.Stat_t
	require.NoError(t, unix.Stat(filepath.Join(dir, "loop3"), &st))
	if st.Mode != unix.S_IFBLK|0o600 || st.Rdev != unix.Mkdev(7, 3) {
		t.Errorf("mode %o, device %d", st.Mode, st.Rdev)
	}
	require.NoError(t, os.Remove(filepath.Join(dir, "loop3")))
}

// The kernel falls back to another block size without an error.
func TestOtherBlockSizeIsSeen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "image")
	require.NoError(t, os.WriteFile(file, make([]byte, 1<<20), 0o600))
	d, err := Attach(t.Context(), file, Options{BlockSize: 4096})
	require.NoError(t, err)
	if _, err := verifyOptions(d.dev, d.file, Options{BlockSize: 512}); err == nil {
		t.Error("no error")
	}
}
