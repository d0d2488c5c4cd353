package shelf_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// Another filesystem that was mounted at the path of a pool is not trimmed.
func TestTrimsItsOwn(t *testing.T) {
	path := filepath.Join(scratch.Mount(t, "xfs", scratch.XFS), "pool")
	s, err := shelf.Open(backends.Config{Name: "test", Path: path, Make: true}, "test")
	require.NoError(t, err)
	if n, err := s.Trim(); err != nil || n == 0 {
		t.Errorf("%d bytes, %v", n, err)
	}
	require.NoError(t, errors.Join(os.Rename(path, path+"-away"), os.Mkdir(path, 0o700)))
	if n, err := s.Trim(); !errors.Is(err, dataset.ErrOffline) {
		t.Errorf("of what is in its place: %d bytes, %v", n, err)
	}
}
