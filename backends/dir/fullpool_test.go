package dir_test

import (
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

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
	if _, err := pool.Create(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	scratch.Fill(t, disk)
	cfg.ID, cfg.Make = pool.ID(), false
	again, err := dir.Backend{}.Open(t.Context(), cfg)
	require.NoError(t, err)
	assert.NoError(t, again.Delete(t.Context(), d.ID))
}
