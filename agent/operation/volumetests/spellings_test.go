package volume_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/process"
	"github.com/droverhq/drover/plugin"
	"github.com/droverhq/drover/test/require"
)

// A name that the engine has once used for a volume remains valid, whatever the volume's profile is now: an error
// would make the engine forget it. A name that the engine never used for it does not exist.
func TestGetOfSpellingThatEngineUsed(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	used := map[string]any{"spellings/db": host.SpellingRecord{Dataset: d.ID, Used: []string{"db", "db@gold"}}}
	require.NoError(t, r.DB.Put(t.Context(), used))
	r.Restart()
	if v, err := r.Get(t.Context(), "db@gold"); err != nil || v.Spelling != "db@gold" || v.Mountpoint != r.MountPath(d.ID) {
		t.Errorf("a spelling that was used: %+v, %v", v, err)
	}
	if v, err := r.Get(t.Context(), "db@silver"); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("a spelling that never was: %+v, %v", v, err)
	}
}

// TestI7GetOfVolumeOfAnotherNodeWithoutControl: an error would make the engine forget a volume that it has used. The
// node answers from the record of its spellings, also after a restart. It has no record of another spelling.
func TestI7GetOfVolumeOfAnotherNodeWithoutControl(t *testing.T) {
	f := agenttest.NewCluster(t, "dir", "dir")
	d := f.A.NewVolume("db@plain")
	require.NoError(t, f.B.Create(t.Context(), "db", nil))
	reachable := f.B.Config.Control
	f.B.Config.Control = agenttest.UnreachableControl{Service: reachable}
	f.B.Restart()
	v, err := f.B.Get(t.Context(), "db")
	problem, _ := v.Status["problem"].(string)
	if err != nil || v.Spelling != "db" || v.Status["dataset"] != d.ID || !strings.Contains(problem, "unreachable") {
		t.Errorf("%+v, %v", v, err)
	}
	for _, spelling := range []string{"db@plain", "other"} {
		if v, err := f.B.Get(t.Context(), spelling); !errors.Is(err, dataset.ErrUnavailable) {
			t.Errorf("%s: %+v, %v", spelling, v, err)
		}
	}
	if err := f.B.Remove(t.Context(), "db"); !errors.Is(err, dataset.ErrUnavailable) {
		t.Errorf("remove: %v", err)
	}
	f.B.Config.Control = reachable
	f.B.Restart()
	f.AwaitEnd(*f.Submit(api.Request{Kind: dataset.OpDelete, Volume: "db"}).Operation)
	if v, err := f.B.Get(t.Context(), "db"); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("after the deletion: %+v, %v", v, err)
	}
	f.B.Config.Control = agenttest.UnreachableControl{Service: reachable}
	f.B.Restart()
	if v, err := f.B.Get(t.Context(), "db"); !errors.Is(err, dataset.ErrUnavailable) {
		t.Errorf("after a deletion that this node knows of: %+v, %v", v, err)
	}
}

// TestSpellingsOutliveDeletion: the engines of the home and of another node have used a volume by a profile that it does
// not have any more. Both find it again after a restore from the trash and a restart, and neither lists it in between.
func TestSpellingsOutliveDeletion(t *testing.T) {
	ctx := t.Context()
	a := agenttest.New(t)
	b := agenttest.New(t, func(cfg *agent.Config) {
		cfg.Control, cfg.NodeName = a.Link, "host-b"
		cfg.Pools = []pool.Config{{Name: "other", Backend: "dir", Path: filepath.Join(cfg.Root, "pool")}}
	})
	d := a.NewVolume("db")
	used := map[string]any{"spellings/db": host.SpellingRecord{Dataset: d.ID, Used: []string{"db@gold"}}}
	for _, r := range []*agenttest.Host{a, b} {
		require.NoError(t, r.DB.Put(ctx, used))
		r.Restart()
	}
	submit := func(req api.Request) {
		t.Helper()
		req.ID, req.Volume = uuid.New(), "db"
		if _, err := a.Link.Service.Submit(ctx, req); err != nil {
			t.Fatal(err)
		}
	}
	remove := func() {
		t.Helper()
		submit(api.Request{Kind: dataset.OpDelete})
		agenttest.Await(t, func() bool { now, _ := a.Cache.Dataset(d.ID); return now.State == dataset.StateTrashed })
	}
	remove()
	for _, r := range []*agenttest.Host{a, b} {
		if v, err := r.Get(ctx, "db@gold"); !errors.Is(err, dataset.ErrNotFound) {
			t.Errorf("%s: in the trash: %+v, %v", r.NodeName, v, err)
		}
		if list, err := r.List(ctx); err != nil || len(list) != 0 {
			t.Errorf("%s lists %v, %v", r.NodeName, list, err)
		}
		r.Restart()
	}
	submit(api.Request{Kind: dataset.OpUndelete})
	agenttest.Await(t, func() bool { _, ok := a.Cache.Volume("db"); return ok })
	for _, r := range []*agenttest.Host{a, b} {
		if v, err := r.Get(ctx, "db@gold"); err != nil || v.Spelling != "db@gold" {
			t.Errorf("%s: restored: %+v, %v", r.NodeName, v, err)
		}
	}
	b.Restart()
	if used := b.Spellings.Used(d); len(used) != 1 {
		t.Errorf("host-b knows it as %q", used)
	}
	remove()
	submit(api.Request{Kind: dataset.OpPurge})
	agenttest.Await(t, func() bool { return len(a.Cache.RecordedSpellings(d.ID)) == 0 })
}

// If the engine uses several spellings at the same time, all of them are recorded, and all are dropped: a lost one
// would be a volume that the engine has and does not list.
func TestConcurrentSpellingsAreAllKept(t *testing.T) {
	r := agenttest.New(t)
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
		if _, err := r.Link.Service.Submit(ctx, api.Request{ID: uuid.New(), Kind: dataset.OpCreate, Volume: name}); err != nil {
			t.Fatal(err)
		}
		agenttest.Await(t, func() bool { _, ok := r.Cache.Volume(name); return ok })
		each(func(s string) error { return r.Create(ctx, s, nil) }, name)
		d, _ := r.Cache.Volume(name)
		if used := r.Spellings.Used(d); len(used) != 2 || !slices.Contains(used, name) || !slices.Contains(used, name+"@bronze") {
			t.Fatalf("%s is known as %v", name, used)
		}
		each(func(s string) error { return r.Remove(ctx, s) }, name)
		if _, ok := r.Cache.Volume(name); ok {
			t.Fatalf("%s is still there, as %v", name, r.Spellings.Used(d))
		}
	}
}

// TestPodmanRemovesOnlyItsVolumes: after "podman volume reload" Podman has a record of each volume, and "podman
// volume prune" removes all that none of its containers uses. The removal of a volume that only other engines have
// used is refused. A volume that others use by another spelling stays for them.
func TestPodmanRemovesOnlyItsVolumes(t *testing.T) {
	r := agenttest.New(t)
	docker, podman := plugin.WithTool(t.Context(), plugin.Docker), plugin.WithTool(t.Context(), plugin.Podman)
	create := func(ctx context.Context, spelling string) {
		t.Helper()
		require.NoError(t, r.Create(ctx, spelling, nil))
	}
	use := func(ctx context.Context, spelling string) {
		t.Helper()
		if _, err := r.Mount(ctx, spelling, "id"); err != nil {
			t.Fatal(err)
		}
		require.NoError(t, r.Unmount(ctx, spelling, "id"))
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
	const never = "was never used by podman on node host-a, and others may need it (drover volume inspect "
	all := []string{anonymous, "both", "both@bronze", "dock", "pod", "sign@bronze"}
	for range 2 {
		for _, name := range []string{"dock", "sign", anonymous} {
			remove(podman, name, never+name, all...)
		}
		r.Restart()
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

// A container runs with the volume ih@daily while the profile of the volume is changed. The container stops, the volume
// is removed to the trash and restored, and the container starts again: the engine asks for ih@daily.
func TestSpellingSurvivesTrashAfterSetProfile(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, name := range []string{"made by the engine", "made by a user", "asked for in the trash", "restarted"} {
		t.Run(name, func(t *testing.T) {
			f := agenttest.NewCluster(t, "dir", "dir")
			h := f.A
			if name == "made by a user" {
				f.AwaitEnd(*f.Submit(api.Request{Kind: dataset.OpCreate, Volume: "ih@plain"}).Operation)
				if f.Recorded("ih").Home == f.B.NodeID {
					h = f.B
				}
				agenttest.Await(t, func() bool { _, ok := h.Cache.Volume("ih"); return ok })
			} else if err := f.A.Create(ctx, "ih@plain", nil); err != nil {
				t.Fatal(err)
			}
			h.MustMount("ih@plain", "one")
			d, _ := h.Cache.Volume("ih")
			f.Submit(api.Request{Kind: dataset.OpUpdate, Volume: "ih", Profile: "never"})
			h.MustUnmount("ih@plain", "one")
			f.AwaitEnd(*f.Submit(api.Request{Kind: dataset.OpDelete, Volume: "ih"}).Operation)
			agenttest.Await(t, func() bool { now, _ := h.Cache.Dataset(d.ID); return now.State == dataset.StateTrashed })
			switch name {
			case "asked for in the trash":
				if v, err := h.Get(ctx, "ih@plain"); !errors.Is(err, dataset.ErrNotFound) {
					t.Errorf("in the trash: %+v, %v", v, err)
				}
				if err := h.Remove(ctx, "ih@plain"); err != nil {
					t.Error(err)
				}
			case "restarted":
				h.Restart()
			}
			f.Submit(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()})
			if v, err := h.Get(ctx, "ih@plain"); err != nil || v.Spelling != "ih@plain" {
				t.Errorf("restored: %+v, %v", v, err)
			}
			h.MustMount("ih@plain", "one")
			h.WantUses(d, "one")
		})
	}
}

// Spellings of a destroyed dataset that could not be removed from disk are removed by the next attempt.
func TestForgetOfSpellingsIsRepeatedAfterError(t *testing.T) {
	ctx := t.Context()
	r := agenttest.NewCluster(t, "dir", "dir").A
	id := r.NewVolume("db").ID
	used := map[string]any{"spellings/db": host.SpellingRecord{Dataset: id, Used: []string{"db", "db@gold"}}}
	require.NoError(t, r.DB.Put(ctx, used))
	r.Restart()
	broken := errors.New("the disk is full")
	r.Fuse.FailNext("state spellin", broken)
	if err := r.Spellings.Forget(ctx, id); !errors.Is(err, broken) {
		t.Fatalf("first attempt: %v", err)
	}
	require.NoError(t, r.Spellings.Forget(ctx, id))
	if there, err := r.DB.Get(ctx, "spellings/db", &host.SpellingRecord{}); err != nil || there {
		t.Errorf("after the second attempt recorded: %t, %v", there, err)
	}
}

func lists(h *agenttest.Host) (names []string) {
	h.Cluster.Helper()
	list, err := h.List(h.Cluster.Context())
	if err != nil {
		h.Cluster.Fatal(err)
	}
	for _, v := range list {
		if v.Mountpoint == "" {
			h.Cluster.Errorf("%s has no mountpoint", v.Spelling)
		}
		names = append(names, v.Spelling)
	}
	slices.Sort(names)
	return names
}

// A node lists the volumes whose home it is and those that its engine has used. If drover.yaml says so it also lists
// all other volumes, each once and in the spelling that is used here. While control is unreachable it lists only the
// volumes whose home it is.
func TestListOfAllNodes(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "dir", "dir")
	f.A.NewVolume("far@plain", nil)
	f.A.NewVolume("used@plain", nil)
	f.A.NewVolume("gone", nil)
	f.B.NewVolume("near@never", nil)
	require.NoError(t, f.B.Create(t.Context(), "used", nil))
	own := []string{"near@never", "used"}
	if got := lists(f.B); !slices.Equal(got, own) {
		t.Errorf("it lists %v", got)
	}
	f.B.Config.ListAll = true
	f.B.Restart()
	if got := lists(f.B); !slices.Equal(got, []string{"far@plain", "gone", "near@never", "used"}) {
		t.Errorf("of the cluster it lists %v", got)
	}
	require.NoError(t, f.A.Remove(t.Context(), "gone"))
	if got := lists(f.B); slices.Contains(got, "gone") {
		t.Errorf("it lists %v", got)
	}
	if v, err := f.B.Get(t.Context(), "far@plain"); err != nil || v.Spelling != "far@plain" {
		t.Errorf("%+v, %v", v, err)
	}
	f.B.Config.Control = agenttest.UnreachableControl{Service: f.Client}
	f.B.Restart()
	if got := lists(f.B); !slices.Equal(got, own) {
		t.Errorf("with control away it lists %v", got)
	}
}

// A former home that keeps a copy of a volume lists the volume until it is deleted at its new home, again after it was
// restored, and once if another volume has its name.
func TestListOfFormerHome(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db@plain", nil)
	f.A.MustMount("db@plain", "one")
	f.A.MustUnmount("db@plain", "one")
	f.Move("db", f.B)
	await := func(what string, want ...string) {
		t.Helper()
		f.AwaitNamed(what, func() bool { return slices.Equal(lists(f.A), want) })
	}
	await("the volume is listed after its move", "db@plain")
	remove := func() {
		t.Helper()
		if op := f.AwaitEnd(*f.Submit(api.Request{Kind: dataset.OpDelete, Volume: "db"}).Operation); op.State != dataset.OpDone {
			t.Fatalf("%+v", op.Problem)
		}
	}
	remove()
	await("the deleted volume is not listed")
	f.Submit(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()})
	await("the restored volume is listed", "db@plain")
	remove()
	f.B.NewVolume("db@plain", nil)
	require.NoError(t, f.A.Create(t.Context(), "db@plain", nil))
	await("the new volume is listed once", "db@plain")
}

// A Docker engine lists a volume by the name for which it asked last, and by a name that a container needs, also one
// that does not run. It can remove the volume by any name once no container needs another one. This test is the engine.
func TestSpellingsThatContainersNeed(t *testing.T) {
	r, root := agenttest.New(t), t.TempDir()
	write := func(file, text string) {
		t.Helper()
		path := filepath.Join(root, file)
		require.NoError(t, errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)))
	}
	write("volumes/metadata.db", "")
	list, err := os.Open(filepath.Join(root, "volumes/metadata.db"))
	require.NoError(t, err)
	defer list.Close()
	self, err := process.Of(os.Getpid())
	require.NoError(t, err)
	ctx := plugin.WithTool(plugin.WithCaller(t.Context(), self), plugin.Docker)
	asks := func(name string, want ...string) {
		t.Helper()
		if _, err := r.Get(ctx, name); err != nil {
			t.Error(err)
		}
		all, err := r.List(ctx)
		var got []string
		for _, v := range all {
			got = append(got, v.Spelling)
		}
		if slices.Sort(got); err != nil || !slices.Equal(got, want) {
			t.Errorf("after %s was asked for it lists %v, want %v: %v", name, got, want, err)
		}
	}
	write("containers/c1/config.v2.json", `{"MountPoints":{"/data":{"Name":"six@bronze","Driver":"drover"}}}`)
	require.NoError(t, r.Create(ctx, "six@bronze", nil))
	asks("six@bronze", "six@bronze")
	if err := r.Remove(ctx, "six"); !errors.Is(err, dataset.ErrInUse) {
		t.Errorf("removed although a container needs it: %v", err)
	}
	asks("six", "six", "six@bronze")
	if err := r.Remove(ctx, "six"); err != nil { // only this name
		t.Error(err)
	}
	asks("six@bronze", "six@bronze")
	write("containers/c1/config.v2.json", "not written completely")
	asks("six", "six", "six@bronze") // what cannot be read may need any name
	require.NoError(t, os.RemoveAll(filepath.Join(root, "containers/c1")))
	asks("six", "six")
	asks("six@bronze", "six@bronze")
	if err := r.Remove(ctx, "six"); err != nil {
		t.Error(err)
	}
	if _, err := r.Get(ctx, "six"); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("after the removal: %v", err)
	}
}
