package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/plugin"
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
		await(t, func() bool { _, ok := r.Cache.Volume(name); return ok })
		each(func(s string) error { return r.Create(ctx, s, nil) }, name)
		d, _ := r.Cache.Volume(name)
		if used := r.spellings.Of(d); len(used) != 2 || !slices.Contains(used, name) || !slices.Contains(used, name+"@bronze") {
			t.Fatalf("%s is known as %v", name, used)
		}
		each(func(s string) error { return r.Remove(ctx, s) }, name)
		if _, ok := r.Cache.Volume(name); ok {
			t.Fatalf("%s is still there, as %v", name, r.spellings.Of(d))
		}
	}
}

// TestPodmanRemovesItsOwn: after "podman volume reload" Podman has a record of each volume, and
// "podman volume prune" removes all that none of its containers uses. What only others have used is
// refused. What others use by another spelling stays for them.
func TestPodmanRemovesItsOwn(t *testing.T) {
	r := newRig(t)
	docker, podman := plugin.WithTool(t.Context(), plugin.Docker), plugin.WithTool(t.Context(), plugin.Podman)
	create := func(ctx context.Context, spelling string) {
		t.Helper()
		if err := r.Create(ctx, spelling, nil); err != nil {
			t.Fatal(err)
		}
	}
	use := func(ctx context.Context, spelling string) {
		t.Helper()
		if _, err := r.Mount(ctx, spelling, "id"); err != nil {
			t.Fatal(err)
		}
		if err := r.Unmount(ctx, spelling, "id"); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(ctx context.Context, spelling string, refused string, left ...string) {
		t.Helper()
		err := r.Remove(ctx, spelling)
		if refused == "" && err != nil || refused != "" && (!errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), refused)) {
			t.Errorf("remove of %s: %v, want %q", spelling, err, refused)
		}
		list, err := r.List(t.Context())
		var names []string
		for _, v := range list {
			names = append(names, v.Spelling)
		}
		if slices.Sort(names); err != nil || !slices.Equal(names, left) {
			t.Errorf("after the removal of %s there are %v, want %v: %v", spelling, names, left, err)
		}
	}
	anonymous := strings.Repeat("a1", 32)
	for _, spelling := range []string{"dock", "sign@bronze", anonymous} {
		create(docker, spelling)
	}
	create(podman, "pod")
	create(docker, "both@bronze")
	use(podman, "both")
	const never = "was never used by podman on node host-a, and others may need it (drover volume rm "
	all := []string{anonymous, "both", "both@bronze", "dock", "pod", "sign@bronze"}
	for range 2 {
		for _, name := range []string{"dock", "sign", anonymous} {
			remove(podman, name, never+name, all...)
		}
		r.restart()
	}
	remove(podman, "both", "", anonymous, "both@bronze", "dock", "pod", "sign@bronze")
	remove(podman, "both", never, anonymous, "both@bronze", "dock", "pod", "sign@bronze")
	remove(podman, "pod", "", anonymous, "both@bronze", "dock", "sign@bronze")
	use(podman, "dock")
	use(podman, "sign")
	remove(docker, "sign@bronze", "", anonymous, "both@bronze", "dock", "sign")
	remove(podman, "sign", "", anonymous, "both@bronze", "dock")
	create(docker, "both")
	remove(docker, "both@bronze", "", anonymous, "both", "dock")
}
