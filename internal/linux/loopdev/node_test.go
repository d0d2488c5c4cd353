package loopdev

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/require"
)

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
