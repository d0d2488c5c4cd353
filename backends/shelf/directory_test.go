package shelf

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// A pool does not count as absent while its marker is rewritten.
func TestMarkerThatIsWrittenAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pool")
	s, err := Open(backends.Config{Name: "test", Path: path, Make: true}, "test")
	require.NoError(t, err)
	s.markerMu.Lock()
	marker := filepath.Join(path, MarkerFile)
	require.NoError(t, os.Rename(marker, marker+".away"))
	looked := make(chan dataset.PoolStatus)
	go func() { looked <- s.Status() }()
	select {
	case st := <-looked:
		t.Fatalf("it did not wait: %+v", st)
	case <-time.After(50 * time.Millisecond):
	}
	require.NoError(t, os.Rename(marker+".away", marker))
	s.markerMu.Unlock()
	if st := <-looked; !st.Online {
		t.Error(st.Reason)
	}
}

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

// btrfs makes written bytes part of a file some time after the write: 2 of 71 power cuts left an empty record under its
// name. So the bytes must be on the disk before the rename, although the name itself need not be durable.
func TestRecordsBytesComeBeforeItsName(t *testing.T) {
	image := scratch.Image(t, "btrfs", scratch.Btrfs)
	mnt := scratch.MountImage(t, "btrfs", image)
	root, err := safefile.OpenDir(mnt)
	require.NoError(t, err)
	want := strings.Repeat("x", 9000) // more than fits into an inode
	require.NoError(t, WriteJSON(root, "record.json", want, false))
	cut := filepath.Join(t.TempDir(), "cut")
	scratch.Copy(t, image, cut)
	if err := errors.Join(root.Close(), mount.Unmount(mnt)); err != nil { // the copy has the same UUID
		t.Fatal(err)
	}
	copied, err := safefile.OpenDir(scratch.MountImage(t, "btrfs", cut))
	require.NoError(t, err)
	defer copied.Close()
	for _, name := range []string{"record.json", Temp + "record.json"} {
		var got string
		if ReadJSON(copied, name, &got) == nil && got == want {
			return
		}
	}
	t.Error("its bytes are not on the disk")
}

// Reap does not remove the folder of a copy that MakeCopy is making.
func TestReapSparesACopyBeingMade(t *testing.T) {
	cfg := backends.Config{Name: "test", Path: filepath.Join(t.TempDir(), "pool"), Make: true}
	s, err := Open(cfg, "test")
	if err == nil {
		err = s.KeepCopies()
	}
	d := dataset.Dataset{ID: uuid.New()}
	if err == nil { // an interrupted attempt leaves an empty folder
		err = os.Mkdir(filepath.Join(cfg.Path, Copies, d.ID.String()), 0o700)
	}
	require.NoError(t, err)
	reap := func() error {
		n, err := s.Reap(t.Context(), func(uuid.UUID) bool { return true }, func(*Folder) (int, error) { return 0, nil })
		if n != 0 {
			err = errors.Join(err, errors.New("the folder was removed"))
		}
		return err
	}
	f, err := s.MakeCopy(d, reap)
	require.NoError(t, err)
	assert.NoError(t, f.Close())
}
