package dir_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/backendtest/crashing"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// on returns a factory of pools below a directory that is made for each test.
func on(parent func(t *testing.T) string) backendtest.Factory[*testing.T] {
	return func(t *testing.T) (backends.Kind, backends.Config) {
		return dir.Backend{}, backends.Config{Name: "test", Path: filepath.Join(parent(t), "pool")}
	}
}

func TestSuite(t *testing.T) {
	backendtest.Run(t, "host", on(func(t *testing.T) string { return t.TempDir() }))
	backendtest.Run(t, "tmpfs", on(tmpfs))
	for _, fs := range []string{"xfs", "btrfs"} {
		backendtest.Run(t, fs, on(func(t *testing.T) string { return scratch.Mount(t, fs, 1<<30) }))
	}
}

// I3: an operation of which any system call fails damages nothing in the pool.
func TestI3FailingCalls(t *testing.T) { crashing.FailingCalls(t, "tmpfs", on(tmpfs)) }

func tmpfs(t *testing.T) string { return tmpfsOf(t, "1g") }

func tmpfsOf(t *testing.T, size string) string {
	t.Helper()
	path := t.TempDir()
	require.NoError(t, unix.Mount("none", path, "tmpfs", 0, "size="+size))
	t.Cleanup(func() {
		assert.NoError(t, unix.Unmount(path, 0))
	})
	return path
}

func TestPowerCut(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs", "btrfs"} {
		crashing.PowerCut(t, dir.Backend{}, fs)
	}
}

// Without project quotas, the pool reports how to get them. If the kernel has none, it names another kernel.
func TestWhatSizesNeed(t *testing.T) {
	for fs, mend := range map[string]string{
		"ext4": "tune2fs -O project,quota /dev/loop",
		"xfs":  "unmount its filesystem and mount it with -o prjquota",
	} {
		at := scratch.Mount(t, fs, 1<<30)
		root, err := os.Open(at)
		require.NoError(t, err)
		_, err = fsctl.EnforcesProjects(root)
		if errors.Is(err, fsctl.ErrNoProjects) {
			mend, err = "sizes need another kernel, because this one does not support project quotas for "+fs, nil
		}
		require.NoError(t, errors.Join(err, root.Close()))
		p, err := dir.Backend{}.Open(t.Context(), backends.Config{
			Name: "test",
			Path: filepath.Join(at, "pool"),
			Make: true,
		})
		require.NoError(t, err)
		if is := p.Info(); len(is.Missing) != 1 || !strings.Contains(is.Missing[0], mend) ||
			!strings.Contains(is.Note, ": no size limits;") {
			t.Errorf("on %s it says %q and misses %q, want %q", fs, is.Note, is.Missing, mend)
		}
		assert.NoError(t, p.Close())
	}
}

// The tests run in a separate mount namespace. Otherwise a process that the tests of another package start would copy
// their mounts and keep them in use.
func TestMain(m *testing.M) { os.Exit(scratch.Main(m)) }

// A pool without a free block can be opened, after a restart too, and its datasets can be removed. There is no other
// way to make room.
func TestOpenWhenFull(t *testing.T) {
	for name, disk := range map[string]func(t *testing.T) string{
		"tmpfs": func(t *testing.T) string { return tmpfsOf(t, "16m") },
		"xfs":   func(t *testing.T) string { return scratch.Mount(t, "xfs", scratch.XFS) },
		"btrfs": func(t *testing.T) string { return scratch.Mount(t, "btrfs", scratch.Btrfs) },
	} {
		t.Run(name, func(t *testing.T) { openFull(t, disk(t)) })
	}
}

func openFull(t *testing.T, disk string) {
	cfg := backends.Config{Name: "test", Path: filepath.Join(disk, "pool"), Make: true}
	pool, err := dir.Backend{}.Open(t.Context(), cfg)
	require.NoError(t, err)
	d := dataset.Dataset{ID: uuid.New(), Volume: "db"}
	_, err = pool.Create(t.Context(), d)
	require.NoError(t, err)
	scratch.Fill(t, disk)
	cfg.ID, cfg.Make = pool.ID(), false
	again, err := dir.Backend{}.Open(t.Context(), cfg)
	require.NoError(t, err)
	assert.NoError(t, again.Delete(t.Context(), d.ID))
}

// laterRecord tests that a pool does not touch a dataset whose record has a later format than this version knows. The
// pool lists it with the reason, refuses every operation on it, and changes and removes nothing. create makes a
// dataset, and commits it if commit is set. record returns the path of the record of a dataset. area is the directory
// of the pool that has the dataset: "datasets" or "incoming".
func laterRecord(t *testing.T, p backends.Pool, create func(commit bool) uuid.UUID,
	record func(area string, id uuid.UUID) string) {
	t.Helper()
	const later = `{"format":2,"id":{"new":1}}`
	for _, area := range []string{"datasets", "incoming"} {
		id := create(area == "datasets")
		path := record(area, id)
		require.NoError(t, os.WriteFile(path, []byte(later), 0o600))
		before := treeNames(t, filepath.Dir(path))
		_, err := p.Stat(t.Context(), id)
		_, attachErr := p.Attach(t.Context(), id, backends.AttachOptions{})
		for what, err := range map[string]error{
			"stat":   err,
			"attach": attachErr,
			"record": p.WriteRecord(t.Context(), dataset.Dataset{ID: id}, true),
			"commit": p.Commit(t.Context(), id),
			"delete": p.Delete(t.Context(), id),
		} {
			if !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), "format 2") {
				t.Errorf("%s in %s: got error %v, want that format 2 is not supported", what, area, err)
			}
		}
		if _, err := p.Reap(t.Context(), func(uuid.UUID) bool { return true }); err != nil {
			t.Errorf("reap: %v", err)
		}
		list, err := p.List(t.Context())
		found := false
		for _, e := range list {
			found = found || e.ID == id && strings.Contains(e.Problem, "format 2")
		}
		if !found {
			t.Errorf("the list lacks dataset %s in %s with the reason: %+v, %v", id, area, list, err)
		}
		if after := treeNames(t, filepath.Dir(path)); after != before {
			t.Errorf("its files in %s are %s, want %s", area, after, before)
		}
		if raw, err := os.ReadFile(path); err != nil || string(raw) != later {
			t.Errorf("its record in %s is %q, %v", area, raw, err)
		}
	}
}

// treeNames returns the names of all files below a directory.
func treeNames(t *testing.T, dir string) string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		names = append(names, path)
		return err
	})
	assert.NoError(t, err)
	return strings.Join(names, " ")
}

// A dataset whose record has a later format is left alone.
func TestB16RecordOfALaterFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pool")
	p, err := dir.Backend{}.Open(t.Context(), backends.Config{Name: "test", Path: path, Make: true})
	require.NoError(t, err)
	laterRecord(t, p, func(commit bool) uuid.UUID {
		id := uuid.New()
		_, err := p.Create(t.Context(), dataset.Dataset{ID: id})
		if err == nil && commit {
			err = p.Commit(t.Context(), id)
		}
		require.NoError(t, err)
		return id
	}, func(area string, id uuid.UUID) string {
		return filepath.Join(path, area, id.String(), "record.json")
	})
}
