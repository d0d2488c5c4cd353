package dir_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/backendtest/crashing"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/require"
)

// C1: an operation that is stopped at any step leaves the state before or after it.
func TestC1StoppedAtEveryStep(t *testing.T) {
	crashing.Run(t, "host", on(func(t *testing.T) string { return t.TempDir() }), crashes())
}

// crashes returns the checks of the crash matrix in addition to the list: limits, temporary files and projects.
func crashes() backendtest.Crashes {
	used := map[string]map[uint32]bool{} // the projects of former heads, by pool
	return backendtest.Crashes{
		Crash:   crashing.Stopped(func(step func(string)) backends.Kind { return dir.Stepping(step) }),
		NoSteps: []string{"delete", "delete the source of a clone", "delete a clone"},
		Sized: func(t backendtest.T, p backends.Pool, id uuid.UUID, _ bool, sizes ...dataset.Size) {
			t.Helper()
			if got := limitOf(t, p, id); !slices.Contains(sizes, got) {
				t.Errorf("the limit is %s, want one of %v", got, sizes)
			}
		},
		CheckReaped: func(t backendtest.T, p backends.Pool) {
			t.Helper()
			path := p.Info().Path
			if left, err := filepath.Glob(filepath.Join(path, "*", "*", "tmp-*")); err != nil || len(left) > 0 {
				t.Errorf("left: %q, %v", left, err)
			}
			if used[path] == nil {
				used[path] = map[uint32]bool{}
			}
			unusedProjectsAreFree(t, p, used[path])
		},
		Alternate: !long.Enabled(),
	}
}

// unusedProjectsAreFree checks that projects that no head has any more are free. It adds the present ones.
func unusedProjectsAreFree(t backendtest.T, p backends.Pool, used map[uint32]bool) {
	t.Helper()
	root, err := os.Open(p.Info().Path)
	require.NoError(t, err)
	defer root.Close()
	heads, err := filepath.Glob(filepath.Join(root.Name(), "*", "*", "head*"))
	require.NoError(t, err)
	present := map[uint32]bool{}
	for _, path := range heads {
		head, err := os.Open(path)
		require.NoError(t, err)
		if id, _, err := fsctl.Project(head); err == nil && id != 0 {
			present[id], used[id] = true, true
		}
		_ = head.Close()
	}
	if p.Info().Capabilities.EnforcesSize && len(heads) > 0 && len(present) == 0 {
		t.Error("no head is in a project")
	}
	for id := range used {
		if present[id] {
			continue
		}
		q, err := fsctl.ProjectQuota(root, id)
		for until := time.Now().Add(time.Minute); err == nil && !q.IsUnused() && time.Now().Before(until); {
			time.Sleep(time.Millisecond) // XFS subtracts removed files from its counts a little later
			q, err = fsctl.ProjectQuota(root, id)
		}
		if err != nil || !q.IsUnused() {
			t.Errorf("project %d has %+v, %v", id, q, err)
		}
	}
}

// limitOf returns the limit that the kernel enforces for a dataset's head.
func limitOf(t backendtest.T, p backends.Pool, id uuid.UUID) dataset.Size {
	t.Helper()
	a, err := p.Attach(t.Context(), id, backends.AttachOptions{})
	require.NoError(t, err)
	head, err := os.Open(a.Mount.Source)
	require.NoError(t, errors.Join(err, a.Release()))
	defer head.Close()
	project, inherited, err := fsctl.Project(head)
	if err != nil || project == 0 || !inherited {
		t.Fatalf("the head is in project %d, inherited %v, %v", project, inherited, err)
	}
	q, err := fsctl.ProjectQuota(head, project)
	require.NoError(t, err)
	return dataset.Size(q.Limit)
}

// Clear removes a pool with its folder, unless the folder existed before. A pool with any content stays as it is. After
// a crash, Open completes the remaining pool, and Clear removes it.
func TestClear(t *testing.T) {
	gone := []string{"pool.json", "incoming", "datasets", "deleting"}
	for n := range len(gone) + 1 {
		for _, given := range []bool{false, true} {
			b := newBench(t)
			path := filepath.Join(t.TempDir(), "pool")
			if given {
				b.ok(os.Mkdir(path, 0o755))
			}
			cfg := backends.Config{ID: uuid.New(), Name: "test", Path: path, Make: true}
			open := func() backends.Pool {
				p, err := dir.Backend{}.Open(t.Context(), cfg)
				b.ok(err)
				return p
			}
			p := open()
			for _, what := range []string{"file", "datasets/file", "folder/"} {
				at := filepath.Join(path, what)
				b.ok(os.MkdirAll(filepath.Dir(at), 0o700))
				b.ok(os.WriteFile(at+"x", nil, 0o600))
				if _, err := p.(backends.Clearer).Clear(t.Context()); !errors.Is(err, dataset.ErrConflict) {
					t.Errorf("with %s: %v", what, err)
				}
				b.ok(os.Remove(at + "x"))
				_ = os.Remove(filepath.Join(path, "folder"))
			}
			if st := p.Status(t.Context()); !st.Online {
				t.Errorf("refused, it is no pool any more: %s", st.Reason)
			}
			for _, name := range gone[:n] {
				b.ok(os.Remove(filepath.Join(path, name)))
			}
			if n > 0 {
				p = open()
			}
			left, err := p.(backends.Clearer).Clear(t.Context())
			b.ok(err)
			names, err := os.ReadDir(path)
			if left != "" || len(names) > 0 || n == 0 && given != (err == nil) {
				t.Errorf("%d gone, given %t: left %q, %v, %v", n, given, left, names, err)
			}
		}
	}
}
