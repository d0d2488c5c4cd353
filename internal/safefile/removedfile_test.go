package safefile

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/test/require"
)

// A caller that opened the file of a lock before it was removed has no lock: the next caller locks another file.
func TestLockOnARemovedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	f, err := openLock(path)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, os.Remove(path))
	if locked, err := tryLock(f, path); err != nil || locked {
		t.Errorf("locked %t, %v", locked, err)
	}
}
