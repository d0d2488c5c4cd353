// Package formats tests that Drover opens what the version of the fixture wrote: the state of a host, with a pool of
// backend loop. TestFixture makes the fixture with -update. After a release, a fixture is never changed: a format that
// changes gets a second one, made before the change. The package has only tests, so no other package imports it. Each
// test works on its own copy of the fixture.
package formats

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// useID is the mount ID of the container that used the volume "used" when the fixture was made.
const useID = "5f0c8a6f5e7d44c6a7b7f2c1d4b3a2918070605040302010f0e0d0c0b0a09080"

// The state opens with all volumes, snapshots and deleted volumes.
func TestB16Contents(t *testing.T) {
	openFixture(t)
	host.NewBootID(t, uuid.NewString()) // all uses of the fixture have ended
	h := start(t)
	plug := h.Plug(t)
	_, err := plug.Get("base@plain")
	require.NoError(t, err)
	listed, err := plug.List() // has the name that was asked for last
	require.NoError(t, err)
	if !slices.Contains(listed, "base@plain") {
		t.Errorf("the engine finds its volume base@plain not in %q", listed)
	}
	checkFixture(t, h)
	h.Must(t, "trash", "restore", "old")
	holds(t, plug, "old", "old")
	v := volume(t, h, "former")
	if v.Volume != "labelled" || v.Labels["team"] != "blue" || !v.Protected || v.Profile.Owner == nil ||
		v.Profile.Owner.UID != 999 {
		t.Errorf("volume labelled is %+v", v.Dataset)
	}
	base := volume(t, h, "base")
	if got := base.RequestedAs; got != "base@plain" {
		t.Errorf("volume base was first requested as %q, want base@plain", got)
	}
	if schedule := base.Profile.Snapshots.Schedule; schedule != "15 3 1 1 *" {
		t.Errorf("the schedule of base is %q, want %q", schedule, "15 3 1 1 *")
	}
	if origin := volume(t, h, "copy").Origin; origin == nil || origin.Dataset != base.ID {
		t.Errorf("the origin of copy is %+v", origin)
	}
	h.Clean(t)
}

// A container that ran while Drover was replaced keeps its volume.
func TestB16Uses(t *testing.T) {
	openFixture(t)
	host.NewBootID(t, boot)
	h := start(t)
	awaitUses(t, h, "used", 1)
	require.NoError(t, h.Plug(t).Unmount("used", useID))
	awaitUses(t, h, "used", 0)
	holds(t, h.Plug(t), "used", "used")
}

// The records in the pool are enough to rebuild the store.
func TestB16Rebuild(t *testing.T) {
	openFixture(t)
	host.NewBootID(t, uuid.NewString())
	require.NoError(t, os.Remove(filepath.Join(root, "store.db")))
	h := start(t)
	h.Must(t, "store", "recover", "--from-pools")
	checkFixture(t, h)
}

// checkFixture compares the names of volumes, snapshots and deleted volumes, and the texts in them, with those of the
// fixture.
func checkFixture(t *testing.T, h *host.Host) {
	t.Helper()
	c := h.Client(t)
	defer c.Close()
	volumes, err := c.Volumes(t.Context(), api.Page{})
	require.NoError(t, err)
	trash, err := c.Trash(t.Context(), api.Page{})
	require.NoError(t, err)
	var got []string
	for _, v := range volumes.Items {
		got = append(got, v.Volume)
	}
	for _, v := range trash.Items {
		got = append(got, "deleted "+v.Volume)
	}
	slices.Sort(got)
	want := []string{"base", "copy", "deleted old", "labelled", "used"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("names (-fixture +found):\n%s", diff)
	}
	plug := h.Plug(t)
	for name, text := range map[string]string{
		"base": "base", "copy": "first", "former": "labelled", "used": "used",
	} {
		holds(t, plug, name, text)
	}
	clone := "clone@snapshot-" + snapshotID(t, h, "base")
	require.NoErrorf(t, plug.Create(clone, nil), "clone the snapshot")
	holds(t, plug, clone, "first")
	h.Must(t, "volume", "rm", "clone")
}

func snapshotID(t *testing.T, h *host.Host, name string) string {
	t.Helper()
	return strings.TrimSpace(h.Must(t, "snapshot", "ls", name, "-q"))
}

func volume(t *testing.T, h *host.Host, name string) api.Volume {
	t.Helper()
	c := h.Client(t)
	defer c.Close()
	v, err := c.Volume(t.Context(), name)
	require.NoError(t, err)
	return v
}

// awaitUses waits until control knows of n uses of a volume. The agent reports them soon after a change.
func awaitUses(t *testing.T, h *host.Host, name string, n int) {
	t.Helper()
	const limit = time.Minute
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		status := volume(t, h, name).Status
		if status != nil && len(status.Mounts) == n {
			return
		}
		if time.Since(begin) > limit {
			t.Fatalf("after %s, control reports %+v for volume %s, want %d uses", limit, status, name, n)
		}
	}
}

func write(t *testing.T, plug *host.Plug, name, text string) {
	t.Helper()
	plug.Within(t, name, func(dir string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "text"), []byte(text), 0o644))
	})
}

func holds(t *testing.T, plug *host.Plug, name, text string) {
	t.Helper()
	plug.Within(t, name, func(dir string) {
		if got, err := os.ReadFile(filepath.Join(dir, "text")); err != nil || string(got) != text {
			t.Errorf("volume %s contains %q, %v, want %q", name, got, err, text)
		}
	})
}
