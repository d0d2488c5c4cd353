package shelf

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

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
