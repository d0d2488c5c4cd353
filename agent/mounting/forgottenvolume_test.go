package mounting_test

import (
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
)

// The use of a volume can end after the agent has forgotten the volume, also after a restart. No record of the volume
// is written then.
func TestUnmountOfForgottenVolume(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MustMount("db@bronze", "one")
	r.MustMount("db", "other")
	r.Link.Cut()
	r.Cache.Remove(d.ID)
	if err := r.Cache.SaveChanged(t.Context(), r.DB); err != nil {
		t.Fatal(err)
	}
	r.Restart()
	for id, spelling := range map[string]string{"one": "db@bronze", "other": "db"} {
		if err := r.Unmount(t.Context(), spelling, id); err != nil {
			t.Error(err)
		}
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
			if err := r.Unmount(ctx, "db", "id"); err != nil {
				t.Fatal(err)
			}
			r.WantUses(renamed)
			r.WantUses(other, "id")
		}
		if err := r.Unmount(ctx, "other", "id"); err != nil {
			t.Fatal(err)
		}
		r.WantUses(other)
	}
}
