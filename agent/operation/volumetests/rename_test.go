// Package volume_test tests the volume part of package operation. It is a folder of its own, so that it runs beside the
// other tests.
package volume_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// wantList fails unless docker volume ls of a host has these spellings, in order, each once.
func wantList(h *agenttest.Host, when string, want ...string) {
	h.Cluster.Helper()
	if got := lists(h); !slices.Equal(got, want) {
		h.Cluster.Errorf("%s: %s lists %v, want %v", when, h.NodeName, got, want)
	}
}

// wantDeleted fails unless a volume was deleted.
func wantDeleted(f *agenttest.Cluster, d dataset.Dataset) {
	f.Helper()
	if now, _ := f.A.Cache.Dataset(d.ID); now.State != dataset.StateTrashed {
		f.Errorf("the volume is %s, not %s", now.State, dataset.StateTrashed)
	}
}

// Two engines have used a volume before it is renamed. Both find it by both names, and list the spellings that they
// have used. A removal by the alias ends that spelling and never deletes the data.
func TestSpellingsAfterRename(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := agenttest.NewCluster(t, "dir", "dir")
	d := f.A.NewVolume("old@plain")
	create := func(h *agenttest.Host, spelling string) {
		t.Helper()
		require.NoError(t, h.Create(ctx, spelling, nil))
	}
	remove := func(h *agenttest.Host, spelling string) {
		t.Helper()
		if err := h.Remove(ctx, spelling); err != nil {
			t.Errorf("%s: remove of %s: %v", h.NodeName, spelling, err)
		}
		f.Recorded(d.ID.String()) // fails if the volume was deleted
	}
	create(f.A, "old")
	create(f.B, "old")
	f.SetNames("old", "new", "old")
	for _, h := range []*agenttest.Host{f.A, f.B} {
		for _, spelling := range []string{"old", "new", "old@plain", "new@plain"} {
			if v, err := h.Get(ctx, spelling); err != nil || v.Spelling != spelling || v.Status["dataset"] != d.ID {
				t.Errorf("%s: %s is %+v, %v", h.NodeName, spelling, v, err)
			}
		}
	}
	wantList(f.A, "after the rename", "old", "old@plain")
	wantList(f.B, "after the rename", "old")
	create(f.A, "new")
	create(f.B, "new@plain")
	for range 2 {
		wantList(f.A, "after a use of the new name", "new", "old", "old@plain")
		wantList(f.B, "after a use of the new name", "new@plain", "old")
		if got := f.A.Cache.RecordedSpellings(d.ID); len(got) != 1 || len(got["new"].Used) != 3 {
			t.Errorf("recorded: %+v", got)
		}
		f.A.Restart()
		f.B.Restart()
	}
	remove(f.A, "old")
	wantList(f.A, "after the removal of old", "new", "old@plain")
	wantList(f.B, "after the removal of old on the other node", "new@plain", "old")
	if _, err := f.A.Get(ctx, "old"); err != nil {
		t.Errorf("the alias is not dropped: %v", err)
	}
	remove(f.A, "new")
	wantList(f.A, "after the removal of one of two spellings", "old@plain")
	remove(f.A, "old@plain")
	wantList(f.A, "after the removal of the last spelling, an alias", "new")
	create(f.A, "old@plain")
	create(f.A, "new")
	f.SetNames("new", "new")
	wantList(f.A, "after the alias was dropped", "new")
	agenttest.Await(t, func() bool { return slices.Equal(f.A.Cache.RecordedSpellings(d.ID)["new"].Used, []string{"new"}) })
	for _, h := range []*agenttest.Host{f.A, f.B} {
		if _, err := h.Get(ctx, "old"); !errors.Is(err, dataset.ErrNotFound) {
			t.Errorf("%s finds the alias that was dropped: %v", h.NodeName, err)
		}
	}
	wantList(f.B, "after the engine asked for the alias that was dropped", "new@plain")
	require.NoError(t, f.A.Remove(ctx, "new"))
	wantDeleted(f, d)
}

// The engine that made a volume removes it by the alias, which is its only spelling. The volume is then listed by its
// name, also after a restart, and a removal by the name deletes it.
func TestRemoveByAliasKeepsTheVolume(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := agenttest.NewCluster(t, "dir", "dir")
	d := f.A.NewVolume("old@plain")
	f.B.Config.ListAll = true
	f.B.Restart()
	wantList(f.B, "all volumes", "old@plain")
	f.SetNames("old", "new", "old")
	wantList(f.A, "after the rename", "old@plain")
	wantList(f.B, "all volumes after the rename", "new")
	for _, h := range []*agenttest.Host{f.A, f.B} {
		for range 2 {
			if err := h.Remove(ctx, "old@plain"); err != nil {
				t.Errorf("%s: %v", h.NodeName, err)
			}
			wantList(h, "after the removal of the alias", "new")
			h.Restart()
		}
	}
	if v := f.Recorded("old"); v.ID != d.ID || v.Volume != "new" {
		t.Fatalf("after the removal of the alias: %+v", v.Dataset)
	}
	require.NoError(t, f.A.Remove(ctx, "new"))
	wantDeleted(f, d)
	wantList(f.A, "after the removal of the name")
}

// An engine removes the name of a volume right after control has renamed the volume, when the agent may not know that
// yet. The data stays.
func TestRemoveRightAfterRenameKeepsTheVolume(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := agenttest.NewCluster(t, "dir", "dir")
	for i := range 10 {
		old, now := fmt.Sprintf("old%d", i), fmt.Sprintf("new%d", i)
		d := f.A.NewVolume(old + "@plain")
		if _, err := f.Service.Submit(ctx, api.Request{ID: uuid.New(), Kind: dataset.OpRename, Volume: old, Name: now}); err != nil {
			t.Fatal(err)
		}
		if err := f.A.Remove(ctx, old+"@plain"); err != nil && !errors.Is(err, dataset.ErrConflict) {
			t.Errorf("remove of %s: %v", old, err)
		}
		if v := f.Recorded(d.ID.String()); v.State != dataset.StateReady || v.Volume != now {
			t.Errorf("after the removal of %s: %s is %s", old, v.Volume, v.State)
		}
	}
}

// A container keeps its mount, and ends it by the spelling with which it began, while the volume is renamed and while
// the alias is dropped. Meanwhile another volume can get the former name.
func TestUnmountAfterRename(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "dir", "dir")
	d := f.A.NewVolume("old@plain")
	// Like Docker's.
	before, after, alias := strings.Repeat("1a", 32), strings.Repeat("2b", 32), strings.Repeat("3c", 32)
	path := f.A.MustMount("old", before)
	f.SetNames("old", "new", "old")
	if got := f.A.MustMount("new", after); got != path {
		t.Errorf("mounted at %s by the new name, and at %s by the old one", got, path)
	}
	f.A.MustMount("old@plain", alias)
	f.SetNames("new", "new")
	f.A.NewVolume("old")
	f.A.MustMount("old", "other")
	err := f.A.Remove(t.Context(), "new")
	if want := "--filter volume=new --filter volume=old --filter volume=old@plain"; !errors.Is(err, dataset.ErrInUse) ||
		!strings.Contains(err.Error(), want) {
		t.Errorf("removal while it is mounted: %v, want an error with %s", err, want)
	}
	for id, spelling := range map[string]string{before: "old", after: "new", alias: "old@plain"} {
		f.A.MustUnmount(spelling, id)
	}
	if uses := f.A.Uses.Get(d.ID); len(uses.IDs) != 0 {
		t.Errorf("uses are left: %+v", uses)
	}
	f.A.MustUnmount("old", "other")
}

// A container runs while the alias by which it mounted its volume is dropped. The engine asks for the volume before it
// unmounts, and gets the same answer as before until the last container with that name has stopped. Nothing new is
// mounted by the name. Podman sends the same ID for each of its containers.
func TestStopAfterAliasWasDropped(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := agenttest.NewCluster(t, "dir", "dir")
	d := f.A.NewVolume("old@plain")
	f.SetNames("old", "new", "old")
	path, podman := f.A.MustMount("new", mounting.PodmanID), mounting.PodmanID
	f.A.MustMount("old", podman)
	f.A.MustMount("old@plain", "one")
	f.SetNames("new", "new")
	wantMounted := func(when string) {
		t.Helper()
		for _, spelling := range []string{"old", "old@plain"} {
			v, err := f.A.Get(ctx, spelling)
			at, pathErr := f.A.Path(ctx, spelling)
			if err != nil || pathErr != nil || v.Mountpoint != path || at != path || v.Name != "new" {
				t.Errorf("%s: %s is %+v, %v, at %s, %v", when, spelling, v, err, at, pathErr)
			}
			if _, err := f.A.Mount(ctx, spelling, "another"); !errors.Is(err, dataset.ErrNotFound) ||
				!strings.Contains(err.Error(), "mount of "+spelling+": volume new does not have this name any more") ||
				!strings.Contains(err.Error(), "recreate the container with the name new; until then, docker exec reaches its files") {
				t.Errorf("%s: a new mount by %s: %v", when, spelling, err)
			}
		}
	}
	wantMounted("after the alias was dropped")
	f.A.Restart()
	wantMounted("after a restart")
	for id, spelling := range map[string]string{podman: "old", "one": "old@plain"} {
		f.A.MustUnmount(spelling, id)
	}
	f.A.MustUnmount("new", podman)
	f.A.WantUses(d)
	for _, spelling := range []string{"old", "old@plain"} {
		if _, err := f.A.Get(ctx, spelling); !errors.Is(err, dataset.ErrNotFound) {
			t.Errorf("after all containers have stopped, %s is found: %v", spelling, err)
		}
	}
}

// A volume of another node is listed once if the engine used it by its name and by an alias.
func TestListOfRenamedVolumeOfAnotherNode(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "dir", "dir")
	f.A.NewVolume("old@plain")
	require.NoError(t, f.B.Create(t.Context(), "old", nil))
	f.B.Config.ListAll = true
	f.B.Restart()
	f.SetNames("old", "new", "old")
	wantList(f.B, "after the rename", "old")
	f.Move("new", f.B)
	wantList(f.A, "after the move", "old@plain")
	wantList(f.B, "after the move", "old")
	f.B.WriteFile("new", "token", "of b")
	f.B.WantFile("old", "token", "of b")
}

func TestMain(m *testing.M) { agenttest.Main(m) }
