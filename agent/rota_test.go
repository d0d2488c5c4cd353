package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
)

// All datasets have their turn in so many rounds, and then again, each once.
func TestRota(t *testing.T) {
	for _, n := range []int{0, 1, lookRounds, lookRounds + 1, 2000} {
		ids := make([]uuid.UUID, n)
		for i := range ids {
			ids[i] = uuid.New()
		}
		var r rota
		for range 2 {
			seen := map[uuid.UUID]bool{}
			for rounds := 0; len(seen) < n; rounds++ {
				if rounds == lookRounds {
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

// The home of a volume that nobody uses looks whether it is still there, and tells control:
// otherwise what else there is of it would go as it is thought to be well.
func TestI3IdleVolumeIsLookedAt(t *testing.T) {
	t.Parallel()
	for backend, head := range map[string]string{"loop": "head.img", "dir": ""} {
		t.Run(backend, func(t *testing.T) {
			f := newFlock(t, backend, backend)
			d := f.a.volume("db@plain", nil)
			problem := func() (string, bool) {
				v, err := f.a.Control.Volume(t.Context(), "db")
				if err != nil || v.Status == nil {
					return "", false
				}
				return v.Status.Problem, true
			}
			await(t, func() bool { why, told := problem(); return told && why == "" })
			if err := os.RemoveAll(filepath.Join(f.a.pools.All()[0].Path, "datasets", d.ID.String(), head)); err != nil {
				t.Fatal(err)
			}
			await(t, func() bool { why, _ := problem(); return why != "" })
		})
	}
}
