package agent

import (
	"errors"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// What control said of a volume before it came here does not take it away again: that is
// asked for anew.
func TestRemovedBeforeItCame(t *testing.T) {
	r := newRig(t)
	asked := controlsync.Known{Asked: r.Cache.Moment()}
	d := r.volume("db")
	stale := api.Sync{Cluster: r.identity.Cluster(), Removed: []uuid.UUID{d.ID}}
	if err := r.follower.Apply(t.Context(), stale, asked); !errors.Is(err, controlsync.ErrOvertaken) {
		t.Errorf("it is believed: %v", err)
	}
	if _, known := r.Cache.Dataset(d.ID); !known {
		t.Fatal("it is forgotten")
	}
	if err := r.follower.Apply(t.Context(), stale, controlsync.Known{Asked: r.Cache.Moment()}); err != nil {
		t.Error(err)
	}
	if _, known := r.Cache.Dataset(d.ID); known {
		t.Error("what control says since is not believed")
	}
}

// What control said of a copy before it became the home does not make it a copy again.
func TestCopyOfBeforeItCame(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	before := d
	d.Epoch = 3
	r.Cache.Apply(d, 0)
	for epoch, left := range map[uint64]bool{2: false, 3: false, 4: true} {
		before.Epoch = epoch
		if got := r.Cache.ReplaceByCopy(api.Kept{Record: &before, Copy: dataset.Copy{Dataset: d.ID}}); got != left {
			t.Errorf("home at epoch 3, a copy of epoch %d: it is left: %t", epoch, got)
		}
		r.Cache.SetCopy(d.ID, nil)
		r.Cache.Apply(d, 0)
	}
}

// A store that was put back to before a move does not make this node the home again, which it
// was: what shows that it was put back comes with all else.
func TestHomeOfBeforeItLeft(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	d := r.volume("db")
	gone := d
	gone.Home, gone.Epoch = uuid.New(), d.Epoch+1
	if !r.Cache.ReplaceByCopy(api.Kept{Record: &gone, Copy: dataset.Copy{Dataset: d.ID, Node: r.NodeID, Pool: d.Pool, Kind: dataset.CopyLeft}}) {
		t.Fatal("it is not left")
	}
	y := lease.Relinquished{Epoch: d.Epoch, Move: uuid.New(), To: gone.Home, Told: true}
	if err := r.leases.Relinquish(ctx, d.ID, y); err != nil {
		t.Fatal(err)
	}
	putBack := api.Sync{Cluster: r.identity.Cluster(), Datasets: []api.Indexed{{Dataset: d, Index: 1 << 40}}}
	if err := r.follower.Apply(ctx, putBack, controlsync.Known{Asked: r.Cache.Moment()}); !errors.Is(err, controlsync.ErrOlder) {
		t.Errorf("it is believed: %v", err)
	}
	if err := r.relinquisher.Settle(ctx, d.ID, y); err != nil { // of which control, put back, knows nothing
		t.Error(err)
	}
	if _, err := r.FetchDataset(ctx, d.ID); err != nil {
		t.Error(err)
	}
	if _, home := r.Cache.Dataset(d.ID); home {
		t.Error("this node takes itself for the home")
	}
	if _, left := r.Cache.Copy(d.ID); !left {
		t.Error("what went is forgotten")
	}
	if _, given := r.leases.Relinquished(d.ID); !given {
		t.Error("the epoch that was given up may be opened again")
	}
	if _, err := r.Mount(ctx, "db", "one"); err == nil {
		t.Error("it is mounted at an epoch that has ended")
	}
	if err := r.leases.Drop(ctx, d.ID); err != nil { // or the rig looks after it
		t.Error(err)
	}
	r.Cache.SetCopy(d.ID, nil)
}

// leaves has a node know that a volume of its own went to another one, at an epoch.
func (r *rig) leaves(d dataset.Dataset, epoch uint64) {
	gone := d
	gone.Home, gone.Epoch = uuid.New(), epoch
	r.Cache.Remove(d.ID)
	r.Cache.SetCopy(d.ID, &api.Kept{Record: &gone, Copy: dataset.Copy{Dataset: d.ID, Node: r.NodeID, Pool: d.Pool, Kind: dataset.CopyLeft}})
}

// A full answer that takes back a move is none to believe, however far its clock has come; one that
// has the volume here again at a later epoch is, and one of a store that went by what this node has.
func TestFullAnswerOfBeforeItLeft(t *testing.T) {
	for name, c := range map[string]struct {
		clock    uint64
		epochs   uint64 // after that at which it left
		recovery *api.Recovering
		knows    func(r *rig) controlsync.Known
		believed bool
	}{
		"its clock is not behind":      {clock: 1 << 30},
		"its clock is behind":          {clock: 10},
		"it was recovered, without it": {clock: 1 << 30, recovery: &api.Recovering{ID: uuid.New(), Done: true}},
		"it was recovered, with it":    {clock: 10, recovery: &api.Recovering{ID: uuid.New(), Done: true, Heard: true}, believed: true},
		"it was rebuilt from here":     {clock: 1 << 30, knows: func(*rig) controlsync.Known { return controlsync.Known{} }, believed: true},
		"the volume came back":         {clock: 1 << 30, epochs: 2, believed: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			d := r.volume("db")
			r.storeClock.Raise(1000)
			r.leaves(d, d.Epoch+1)
			says := d
			says.Epoch += c.epochs
			if c.knows == nil {
				c.knows = func(r *rig) controlsync.Known { return r.follower.Known() }
			}
			answer := api.Sync{Cluster: r.identity.Cluster(), Full: true, Index: 1 << 41, Clock: c.clock, Recovery: c.recovery, Datasets: []api.Indexed{{Dataset: says, Index: 1 << 40}}}
			if err := r.follower.Apply(t.Context(), answer, c.knows(r)); err != nil {
				t.Fatal(err)
			}
			now, home := r.Cache.Dataset(d.ID)
			if _, left := r.Cache.Copy(d.ID); home != c.believed || left == c.believed || home && now.Epoch != says.Epoch {
				t.Errorf("home %t, left %t, %+v", home, left, now)
			}
			if err := r.Trust.Err(); (err == nil) != c.believed {
				t.Errorf("the store is not to be believed: %v", err)
			}
			_, err := r.Mount(t.Context(), "db", "one")
			if (err == nil) != c.believed {
				t.Errorf("mount: %v", err)
			}
			if err == nil {
				err = r.Unmount(t.Context(), "db", "one")
				if err != nil {
					t.Error(err)
				}
			}
			r.Cache.SetCopy(d.ID, nil) // or the rig looks after it
		})
	}
}

// An answer that was asked for before the move was heard of, and comes in after it, is not of a store
// that was put back: everything is asked for again.
func TestFullAnswerThatIsOvertaken(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	before := r.follower.Known()
	r.leaves(d, d.Epoch+1)
	answer := api.Sync{Cluster: r.identity.Cluster(), Full: true, Index: 1 << 41, Clock: 1 << 30, Datasets: []api.Indexed{{Dataset: d, Index: before.Datasets[d.ID].Index}}}
	if err := r.follower.Apply(t.Context(), answer, before); !errors.Is(err, controlsync.ErrOvertaken) {
		t.Errorf("it was taken in: %v", err)
	}
	_, home := r.Cache.Dataset(d.ID)
	if err := r.Trust.Err(); err != nil || home {
		t.Errorf("home %t; the store: %v", home, err)
	}
	r.Cache.SetCopy(d.ID, nil) // or the rig looks after it
}

// What control, put back, says of a volume that has left is not gone by before that is seen, nor by
// an operation: what lies here may be what the real home goes on from. Of the same epoch it is newer
// than what was known.
func TestOperationOnWhatLeft(t *testing.T) {
	for epochs, refused := range map[uint64]bool{0: false, 1: true} {
		r := newRig(t)
		d := r.volume("db")
		for _, kind := range []dataset.OpKind{dataset.OpSnapshot, dataset.OpDelete} {
			r.leaves(d, d.Epoch+epochs)
			op := dataset.Operation{ID: uuid.New(), Kind: kind, Node: r.NodeID, Volume: "db", DatasetID: d.ID, Epoch: d.Epoch}
			_, _, unlock, err := r.datasets.Hold(t.Context(), op, "test")
			unlock()
			if errors.Is(err, dataset.ErrStale) != refused || !refused && err != nil {
				t.Errorf("%s, %d epochs later: %v", kind, epochs, err)
			}
		}
		r.leaves(d, d.Epoch+epochs)
		if err := r.Remove(t.Context(), "db"); (err != nil) != refused {
			t.Errorf("removal, %d epochs later: %v", epochs, err)
		}
		r.Cache.SetCopy(d.ID, nil)
	}
}

// The end of a use is heard of a volume that nothing is known of any more, after a
// restart too, and what was known of it on disk stays as it was.
func TestUnmountOfAForgottenVolume(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	r.mountAs("db@bronze", "one")
	r.mountAs("db", "other")
	r.link.away()
	r.Cache.Remove(d.ID)
	if err := r.Cache.SaveChanged(t.Context(), r.DB); err != nil {
		t.Fatal(err)
	}
	r.restart()
	for id, spelling := range map[string]string{"one": "db@bronze", "other": "db"} {
		if err := r.Unmount(t.Context(), spelling, id); err != nil {
			t.Error(err)
		}
	}
	if uses := r.uses.Get(d.ID).IDs; len(uses) > 0 {
		t.Errorf("it is used by %v", uses)
	}
	if mounted, err := host.IsMountPoint(r.MountPath(d.ID)); mounted || err != nil {
		t.Errorf("it is mounted: %t, %v", mounted, err)
	}
	if there, err := r.DB.Get(t.Context(), "volumes/"+d.ID.String(), &api.Indexed{}); there || err != nil {
		t.Errorf("a record of it was made up: %t, %v", there, err)
	}
	r.link.back()
}
