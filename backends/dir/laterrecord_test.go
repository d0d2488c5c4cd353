package dir_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

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
