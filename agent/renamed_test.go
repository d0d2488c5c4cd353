package agent

import "testing"

// A volume that a rebuild renamed while it was mounted, and whose name another has by
// now, is unmounted all the same; an ID that another volume has too is that one's.
func TestUnmountOfARenamedVolume(t *testing.T) {
	for _, taken := range []bool{false, true} {
		r := newRig(t)
		ctx := t.Context()
		db, other := r.volume("db"), r.volume("other")
		r.mount(db, "id")
		r.mount(other, "id")
		renamed := db
		renamed.Volume = "db-12345678"
		if !r.Cache.Apply(renamed, r.Cache.Index(db.ID)+1) {
			t.Fatal("it was not renamed")
		}
		if taken {
			next := db
			next.ID = other.Pool // any other
			r.Cache.Apply(next, 1)
		}
		for range 2 { // again: nothing
			if err := r.Unmount(ctx, "db", "id"); err != nil {
				t.Fatal(err)
			}
			r.want(renamed)
			r.want(other, "id")
		}
		if err := r.Unmount(ctx, "other", "id"); err != nil {
			t.Fatal(err)
		}
		r.want(other)
	}
}
