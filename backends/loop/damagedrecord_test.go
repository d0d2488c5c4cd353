package loop

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// The list reports directories that the disk has lost, and contains all other datasets.
func TestListOfADamagedDisk(t *testing.T) {
	image, host := scratch.Image(t, xfs, scratch.XFS), t.TempDir()
	scratch.Run(t, "mount", "-o", "loop", image, host)
	mounted := true
	t.Cleanup(func() {
		if mounted {
			scratch.Run(t, "umount", host)
		}
	})
	b, _ := newBackend()
	cfg := backends.Config{Name: "test", Path: filepath.Join(host, "pool"), Make: true}
	pool, err := b.Open(t.Context(), cfg)
	require.NoError(t, err)
	var all []dataset.Dataset
	for range 3 {
		d := dataset.Dataset{ID: uuid.New(), Volume: "db", Size: 64 * dataset.MiB}
		d.Profile.Filesystem.Type = "ext4"
		_, err := pool.Create(t.Context(), d)
		require.NoError(t, err)
		require.NoError(t, pool.Commit(t.Context(), d.ID))
		all = append(all, d)
	}
	dirOf := func(d dataset.Dataset) string { return filepath.Join(cfg.Path, shelf.Datasets, d.ID.String()) }
	for i := range 200 { // more than its inode has room for
		if err := os.WriteFile(filepath.Join(dirOf(all[1]), fmt.Sprint("a-name-that-takes-some-room-", i)), nil,
			0o600); err != nil {
			t.Fatal(err)
		}
	}
	inode, content := inodeOf(t, dirOf(all[0])), inodeOf(t, dirOf(all[1]))
	scratch.Run(t, "umount", host)
	mounted = false
	scratch.Run(t, "xfs_db", "-x", "-c", "inode "+inode, "-c", "write -c core.format 7", image)
	scratch.Run(t, "xfs_db", "-x", "-c", "inode "+content, "-c", "dblock 0", "-c", "write -c dhdr.hdr.magic 0", image)
	scratch.Run(t, "mount", "-o", "loop", image, host)
	mounted = true

	list, err := pool.List(t.Context())
	if err != nil || len(list) != 3 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, e := range list {
		sick := e.ID != all[2].ID
		if e.State != backends.EntryReady || sick != strings.Contains(e.Problem, "cannot read ") ||
			!sick && e.Problem != "" {
			t.Errorf("%+v", e)
		}
	}
}

func inodeOf(t *testing.T, path string) string {
	t.Helper()
	fi, err := os.Stat(path)
	require.NoError(t, err)
	return fmt.Sprint(fi.Sys().(*syscall.Stat_t).Ino)
}

// A snapshot that is deleted between reading its directory and its record is not listed. A snapshot that has lost its
// record is damage.
func TestSnapshotThatGoesIsNoDamage(t *testing.T) {
	onPools(t, func(f *fixture) {
		d := newDataset(ext4)
		f.create(d)
		goes, damaged := f.takeSnapshot(d), f.takeSnapshot(d)
		dir := f.folderOf(d.ID)
		before, err := contentsOf(f.layout, dir.Dir)
		f.must(err)
		f.must(f.DeleteSnapshot(f.Context(), d.ID, goes.ID))
		f.must(dir.Remove(snapshotRecord(damaged.ID)))
		e := backends.Entry{ID: d.ID, State: backends.EntryReady}
		f.describeContents(dir, &e, before)
		if len(e.Snapshots) != 1 || e.Snapshots[0].ID != damaged.ID ||
			!strings.Contains(e.Problem, damaged.ID.String()) || strings.Contains(e.Problem, goes.ID.String()) {
			f.Errorf("%+v", e)
		}
	})
}

// In a pool without direct I/O, the bytes of a record are on the disk when WriteNew returns.
func TestRecordWithoutDirectIOSurvivesPowerCut(t *testing.T) {
	image := scratch.Image(t, "xfs", scratch.XFS)
	dir, err := safefile.OpenDir(scratch.MountImage(t, "xfs", image))
	require.NoError(t, err)
	defer dir.Close()
	require.NoError(t, (recordWriter{}).WriteNew(dir, shelf.RecordFile, map[string]int{"format": 1}))
	if err := dir.Sync(); err != nil { // flushes the name, and no bytes
		t.Fatal(err)
	}
	after, err := safefile.OpenDir(scratch.CutPower(t, "xfs", image))
	require.NoError(t, err)
	defer after.Close()
	var got map[string]int
	if err := shelf.ReadJSON(after, shelf.RecordFile, &got); err != nil || got["format"] != 1 {
		t.Errorf("after a power cut, the record has %v, %v", got, err)
	}
}
