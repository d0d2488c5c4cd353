package shelf

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/test/require"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// A directory that cannot be opened may be the pool, so the pool is not reported as absent. Files and symlinks are no
// pools.
func TestFindPoolsThatCannotLook(t *testing.T) {
	share := t.TempDir()
	for _, err := range []error{
		os.Mkdir(filepath.Join(share, "private"), 0o700), os.WriteFile(filepath.Join(share, "file"), nil, 0o600),
		os.Symlink("nowhere", filepath.Join(share, "link")),
	} {
		require.NoError(t, err)
	}
	dir, err := safefile.OpenDir(share)
	require.NoError(t, err)
	defer dir.Close()
	if found, err := FindPools(dir, "nfs", uuid.New()); err != nil || len(found) != 0 {
		t.Errorf("all directories can be opened: %v, %v", found, err)
	}
	runtime.LockOSThread() // the identity is that of the thread: setfsuid(2)
	defer runtime.UnlockOSThread()
	require.NoError(t, unix.Setfsuid(65534))
	found, err := FindPools(dir, "nfs", uuid.New())
	require.NoError(t, unix.Setfsuid(0))
	if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("one directory cannot be opened: %v, %v", found, err)
	}
}
