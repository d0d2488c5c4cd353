package controlsync_test

import (
	"slices"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/dataset"
)

// The home reports by which names its engine has a volume mounted, where, and which aliases the engine knows. It reports a
// change of them at once, also while the volume is not mounted.
func TestNamesOfMountsAreReported(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := agenttest.NewCluster(t, "dir", "dir")
	d := f.A.NewVolume("old@plain", nil)
	await := func(what string, aliases []string, names ...string) {
		t.Helper()
		f.AwaitNamed(what, func() bool {
			v, err := f.A.Control.Volume(ctx, d.ID.String())
			if err != nil || v.Status == nil || len(v.Status.Mounts) != min(len(names), 1) {
				return false
			}
			if path := f.A.MountPath(d.ID); v.Status.Mounted && v.Status.MountPath != path || !v.Status.Mounted && v.Status.MountPath != "" {
				t.Fatalf("mounted: %v, at %q instead of %q", v.Status.Mounted, v.Status.MountPath, path)
			}
			return slices.Equal(v.Status.EngineAliases, aliases) &&
				(len(names) == 0 || slices.Equal(v.Status.Mounts[0].Names, names))
		})
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	await("no alias", nil)
	f.SetNames("old", "new", "old")
	await("the alias of the request", []string{"old@plain"})
	_, err := f.A.Mount(ctx, "new", "m")
	check(err)
	await("a mount by the name", []string{"old@plain"}, "new")
	_, err = f.A.Mount(ctx, "old", "m")
	check(err)
	await("a mount by both", []string{"old", "old@plain"}, "new", "old")
	v, err := f.A.Control.Volume(ctx, "new")
	check(err)
	if n := len(v.Status.MountsBy("old")); n != 1 || len(v.Status.MountsBy("other")) != 0 {
		t.Errorf("%d mounts by the alias in %+v", n, v.Status.Mounts)
	}
	check(f.A.Unmount(ctx, "new", "m"))
	check(f.A.Unmount(ctx, "old", "m"))
	await("not mounted", []string{"old", "old@plain"})
	for i, spelling := range []string{"old", "old@plain"} {
		check(f.A.Remove(ctx, spelling))
		await("without "+spelling, [][]string{{"old@plain"}, nil}[i])
	}
	var unknown dataset.DatasetStatus
	unknown.Mounts = []dataset.Mount{{ID: "m"}}
	if len(unknown.MountsBy("old")) != 1 {
		t.Error("a mount whose names are not known must count")
	}
}
