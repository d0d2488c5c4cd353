package loop

import (
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/internal/scratch"
)

// A pool without a free block can be opened, after a restart too, and its datasets can be removed. There is no other
// way to make room.
func TestOpenWhenFull(t *testing.T) {
	onPools(t, func(f *fixture) {
		d := newDataset(ext4)
		f.create(d)
		f.put(d.ID, "a", "kept")
		scratch.Fill(t, f.disk)
		b, _ := newBackend()
		pool, err := b.Open(t.Context(), backends.Config{ID: f.ID(), Name: "test", Path: filepath.Join(f.disk, "pool")})
		f.must(err)
		entries, err := pool.List(t.Context())
		f.must(err)
		if len(entries) == 0 || entries[0].ID != d.ID {
			t.Errorf("the full pool lists %+v", entries)
		}
		f.must(pool.Delete(t.Context(), d.ID))
	})
}
