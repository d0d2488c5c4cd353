package mounting_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// usesModel is the expected state of the mount IDs of one dataset. Each ID counts its uses, and a restarted engine
// counts from one.
type usesModel struct {
	generation int
	ids        map[string]*useModel
}

type useModel struct{ count, generation int }

func (m *usesModel) mount(id string) {
	if u := m.ids[id]; u != nil && u.generation == m.generation {
		u.count++
		return
	}
	m.ids[id] = &useModel{1, m.generation}
}

func (m *usesModel) unmount(id string) {
	if u := m.ids[id]; u != nil {
		if u.count--; u.count == 0 {
			delete(m.ids, id)
		}
	}
}

func (m *usesModel) counts() map[string]int {
	counts := map[string]int{}
	for id, u := range m.ids {
		counts[id] = u.count
	}
	return counts
}

// TestI9UseCountsMatchModel compares the agent's count of uses with the model's after every call of any sequence:
// with and without an ID, with docker cp, with engines that are killed, with agents that are restarted, and with
// unmounts that have no mount.
func TestI9UseCountsMatchModel(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		d := r.NewVolume(fmt.Sprintf("vol-%d", round))
		m := &usesModel{ids: map[string]*useModel{}}
		steps := rapid.SliceOfN(rapid.SampledFrom([]string{
			"mount a", "mount a", "mount b", "mount c", "mount ", "unmount a", "unmount a", "unmount b", "unmount c", "unmount ", "unmount z",
			"engine", "agent", "remove",
		}), 1, 15).Draw(rt, "steps")
		for _, step := range steps {
			var err error
			switch what, id, _ := strings.Cut(step, " "); what {
			case "engine":
				m.generation++
				r.Activated(ctx)
			case "agent":
				r.Restart()
			case "remove":
				err = r.Remove(ctx, d.Volume)
				if inUse := errors.Is(err, dataset.ErrInUse); inUse != (len(m.ids) > 0) {
					rt.Fatalf("remove with uses %v: %v", m.counts(), err)
				}
				if err == nil {
					return
				}
				err = nil
			default:
				if what == "mount" {
					m.mount(id)
					_, err = r.Mount(ctx, d.Volume, id)
				} else {
					m.unmount(id)
					err = r.Unmount(ctx, d.Volume, id)
				}
			}
			require.NoErrorf(rt, err, "%s", step)
			same(r, rt, d, m)
		}
		for id, u := range maps.Clone(m.ids) {
			for range u.count {
				m.unmount(id)
				require.NoError(rt, r.Unmount(ctx, d.Volume, id))
				same(r, rt, d, m)
			}
		}
		require.NoError(rt, r.Remove(ctx, d.Volume))
	})
}

// TestI9NoUsesAfterReboot: after a reboot of the host no earlier mount exists and no earlier container runs.
func TestI9NoUsesAfterReboot(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	d, idle := r.NewVolume("db"), r.NewVolume("idle")
	for _, v := range []dataset.Dataset{d, idle} {
		r.MountDataset(v, "before")
		before := r.Uses.Get(v.ID)
		before.Boot = "another"
		require.NoError(t, r.Unmount(ctx, v.Volume, "before"))
		before.IDs["before"] = mounting.Use{Count: 1, Since: r.Clock.Now()}
		require.NoError(t, r.DB.Put(ctx, map[string]any{"mounts/" + v.ID.String(): before}))
	}
	r.Restart()
	r.WantUses(idle)
	assert.NoError(t, r.Remove(ctx, "idle"))
	r.MountDataset(d, "now")
	r.WantUses(d, "now")
	require.NoError(t, r.Unmount(ctx, "db", "now"))
	r.WantUses(d)
}

// TestI9UsedVolumeIsRemountedAfterStart: a volume that a container uses, and that somebody unmounted while no agent
// ran, is mounted by the next agent, and unmounted with its last use.
func TestI9UsedVolumeIsRemountedAfterStart(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MountDataset(d, "id")
	cfg := r.Config
	r.Stop()
	require.NoError(t, mount.Unmount(r.MountPath(d.ID)))
	r.StartWith(cfg)
	r.WantUses(d, "id")
	require.NoError(t, r.Unmount(t.Context(), "db", "id"))
	r.WantUses(d)
}

// same fails unless the uses of the dataset match the model, and it is mounted exactly once if it is used.
func same(r *agenttest.Host, rt *rapid.T, d dataset.Dataset, m *usesModel) {
	rt.Helper()
	got := map[string]int{}
	for id, c := range r.Uses.Get(d.ID).IDs {
		got[id] = c.Count
	}
	mounted, err := host.IsMountPoint(r.MountPath(d.ID))
	if want := m.counts(); !maps.Equal(got, want) || mounted != (len(want) > 0) || err != nil {
		rt.Fatalf("uses %v, mounted %t, %v; want uses %v", got, mounted, err, want)
	}
}

// TestSpellingOfAssumedUse: a record that AssumeUse made has no spelling. A further mount with the same ID adds the
// first one, and the record has each spelling once.
func TestSpellingOfAssumedUse(t *testing.T) {
	for _, ended := range []bool{false, true} {
		r := mounting.Record{IDs: map[string]mounting.Use{"one": {Count: 1}}}
		for _, spelling := range []string{"old", "new", "old"} {
			r.Add("one", mounting.Use{Count: 1, Spelling: spelling}, func(string, uint64) bool { return ended })
		}
		got := r.IDs["one"].Spellings()
		slices.Sort(got)
		if !slices.Equal(got, []string{"new", "old"}) {
			t.Errorf("engine ended: %t: the spellings are %q", ended, got)
		}
	}
}

// An Unmount that waited for the lock of a dataset has an older record of the dataset than the cache. On disk, the newer
// record stays. Otherwise the next start of the agent would have the older record with the index of the newer one, and
// would ignore the newer one.
func TestUnmountKeepsNewerRecordOnDisk(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	before := r.NewVolume("db")
	r.MountDataset(before, "user")
	r.MountDataset(before, "other")
	after, index := before, r.Cache.Index(before.ID)+1
	after.Protected = true
	if !r.Cache.Apply(after, index) {
		t.Fatal("the newer record was ignored")
	}
	require.NoError(t, r.Cache.SaveChanged(ctx, r.DB))
	if last, err := r.Verifier.EndUse(ctx, before, "other"); err != nil || last {
		t.Fatal(last, err)
	}
	var onDisk api.IndexedDataset
	if there, err := r.DB.Get(ctx, "volumes/"+before.ID.String(), &onDisk); err != nil || !there {
		t.Fatal(there, err)
	}
	if !onDisk.Protected || onDisk.Index != index {
		t.Errorf("on disk: protected %t, index %d; want protected, index %d", onDisk.Protected, onDisk.Index, index)
	}
}

// A record of uses that could not be removed from disk is removed by the next attempt.
func TestDropOfUsesIsRepeatedAfterError(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MustMount("db", "user")
	r.MustUnmount("db", "user")
	key := "mounts/" + d.ID.String()
	if there, err := r.DB.Get(t.Context(), key, &mounting.Record{}); err != nil || !there {
		t.Fatalf("recorded: %t, %v", there, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Uses.Drop(ctx, d.ID); err == nil {
		t.Fatal("the database accepts a write after the end of its context")
	}
	require.NoError(t, r.Uses.Drop(t.Context(), d.ID))
	if there, err := r.DB.Get(t.Context(), key, &mounting.Record{}); err != nil || there {
		t.Errorf("after the second attempt recorded: %t, %v", there, err)
	}
}

// The use of a volume can end after the agent has forgotten the volume, also after a restart. No record of the volume
// is written then.
func TestUnmountOfForgottenVolume(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MustMount("db@bronze", "one")
	r.MustMount("db", "other")
	r.Link.Cut()
	r.Cache.Remove(d.ID)
	require.NoError(t, r.Cache.SaveChanged(t.Context(), r.DB))
	r.Restart()
	for id, spelling := range map[string]string{"one": "db@bronze", "other": "db"} {
		assert.NoError(t, r.Unmount(t.Context(), spelling, id))
	}
	if uses := r.Uses.Get(d.ID).IDs; len(uses) > 0 {
		t.Errorf("it is used by %v", uses)
	}
	if mounted, err := host.IsMountPoint(r.MountPath(d.ID)); mounted || err != nil {
		t.Errorf("it is mounted: %t, %v", mounted, err)
	}
	if there, err := r.DB.Get(t.Context(), "volumes/"+d.ID.String(), &api.IndexedDataset{}); there || err != nil {
		t.Errorf("a record of it was made up: %t, %v", there, err)
	}
	r.Link.Mend()
}

// A rebuild renamed a volume while it was mounted, and another volume may have its name by now. It is unmounted all
// the same. A mount ID that another volume has too belongs to that volume.
func TestUnmountOfARenamedVolume(t *testing.T) {
	for _, taken := range []bool{false, true} {
		r := agenttest.New(t)
		ctx := t.Context()
		db, other := r.NewVolume("db"), r.NewVolume("other")
		r.MountDataset(db, "id")
		r.MountDataset(other, "id")
		renamed := db
		renamed.Volume = "db-12345678"
		if !r.Cache.Apply(renamed, r.Cache.Index(db.ID)+1) {
			t.Fatal("it was not renamed")
		}
		if taken {
			next := db
			next.ID = other.Pool // any other UUID
			r.Cache.Apply(next, 1)
		}
		for range 2 { // the second unmount does nothing
			require.NoError(t, r.Unmount(ctx, "db", "id"))
			r.WantUses(renamed)
			r.WantUses(other, "id")
		}
		require.NoError(t, r.Unmount(ctx, "other", "id"))
		r.WantUses(other)
	}
}
