package controlsync

import (
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// All datasets have their turn in so many rounds, and then again, each once.
func TestRota(t *testing.T) {
	for _, n := range []int{0, 1, examineRounds, examineRounds + 1, 2000} {
		ids := make([]uuid.UUID, n)
		for i := range ids {
			ids[i] = uuid.New()
		}
		var r rotation
		for range 2 {
			seen := map[uuid.UUID]bool{}
			for rounds := 0; len(seen) < n; rounds++ {
				if rounds == examineRounds {
					t.Fatalf("of %d only %d had their turn", n, len(seen))
				}
				for _, id := range r.next(func() []uuid.UUID { return ids }) {
					if seen[id] {
						t.Fatalf("of %d one has two turns", n)
					}
					seen[id] = true
				}
			}
		}
	}
}

// A volume is at its size when nothing more can be written to it, and not above, whatever its
// filesystem has beside.
func TestFilled(t *testing.T) {
	const size = 320 * dataset.MiB
	for name, c := range map[string]struct {
		fs   unix.Statfs_t
		size dataset.Size
		want dataset.Size
	}{
		"full":          {unix.Statfs_t{Bsize: 4096, Blocks: 88000, Bfree: 0, Bavail: 0}, size, size},
		"but a reserve": {unix.Statfs_t{Bsize: 4096, Blocks: 88000, Bfree: 5000, Bavail: 0}, size, size},
		"half":          {unix.Statfs_t{Bsize: 4096, Blocks: 88000, Bfree: 44000, Bavail: 44000}, size, size / 2},
		"16TiB": {unix.Statfs_t{
			Bsize:  4096,
			Blocks: 1 << 32,
			Bfree:  1 << 30,
			Bavail: 1 << 30,
		}, 16 * dataset.TiB, 12 * dataset.TiB},
		"no size": {unix.Statfs_t{Bsize: 4096, Blocks: 88000, Bfree: 44000, Bavail: 44000}, 0, 44000 * 4096},
		"nothing": {unix.Statfs_t{}, size, 0},
	} {
		if got := filled(c.fs, c.size); got != c.want {
			t.Errorf("%s: %d, not %d", name, got, c.want)
		}
	}
}
