package agent

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Spellings that the engine uses at the same time are all kept, and all dropped:
// one that is lost would be a volume that the engine has and does not see.
func TestSpellingsAtOnce(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	each := func(do func(spelling string) error, name string) {
		t.Helper()
		var all sync.WaitGroup
		for _, spelling := range []string{name, name + "@bronze"} {
			all.Go(func() {
				if err := do(spelling); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	for i := range 10 {
		name := fmt.Sprintf("vol%d", i)
		if _, err := r.link.Service.Submit(ctx, api.Request{ID: uuid.New(), Kind: dataset.OpCreate, Volume: name}); err != nil {
			t.Fatal(err)
		}
		await(t, func() bool { _, ok := r.cache.volume(name); return ok })
		each(func(s string) error { return r.Create(ctx, s, nil) }, name)
		d, _ := r.cache.volume(name)
		if used := r.used(d); len(used) != 2 || !slices.Contains(used, name) || !slices.Contains(used, name+"@bronze") {
			t.Fatalf("%s is known as %v", name, used)
		}
		each(func(s string) error { return r.Remove(ctx, s) }, name)
		if _, ok := r.cache.volume(name); ok {
			t.Fatalf("%s is still there, as %v", name, r.used(d))
		}
	}
}
