package controlsync

import (
	"testing"
	"time"

	"github.com/google/uuid"
)

// The data of an idle volume is looked for within a minute.
func TestDamageIsFoundWithinAMinute(t *testing.T) {
	const heartbeat = 10 * time.Second // by default
	r, ids := rotation{rounds: damageRounds}, make([]uuid.UUID, 2000)
	seen := 0
	for range time.Minute / heartbeat {
		seen += len(r.next(func() []uuid.UUID { return ids }))
	}
	if seen < len(ids) {
		t.Errorf("%d of %d were examined", seen, len(ids))
	}
}

// Within one cycle of rounds each dataset has exactly one turn. Then the next cycle begins.
func TestRota(t *testing.T) {
	for _, n := range []int{0, 1, examineRounds, examineRounds + 1, 2000} {
		ids := make([]uuid.UUID, n)
		for i := range ids {
			ids[i] = uuid.New()
		}
		r := rotation{rounds: examineRounds}
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
