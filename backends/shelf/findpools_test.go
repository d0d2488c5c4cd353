package shelf

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/droverhq/drover/internal/safefile"
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
		if err != nil {
			t.Fatal(err)
		}
	}
	dir, err := safefile.OpenDir(share)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if found, err := FindPools(dir, "nfs", uuid.New()); err != nil || len(found) != 0 {
		t.Errorf("all directories can be opened: %v, %v", found, err)
	}
	runtime.LockOSThread() // the identity is that of the thread: setfsuid(2)
	defer runtime.UnlockOSThread()
	if err := unix.Setfsuid(65534); err != nil {
		t.Fatal(err)
	}
	found, err := FindPools(dir, "nfs", uuid.New())
	if err := unix.Setfsuid(0); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("one directory cannot be opened: %v, %v", found, err)
	}
}
