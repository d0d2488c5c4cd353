package dir_test

import (
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

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
