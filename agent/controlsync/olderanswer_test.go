package controlsync_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// A full answer that is older than a create on this node does not make the agent forget the new dataset. Datasets
// that were really removed are forgotten.
func TestFullSyncOlderThanCreateForgetsNothing(t *testing.T) {
	r := agenttest.New(t)
	was := r.Follower.KnownState()
	s, err := r.Link.Sync(t.Context(), r.NodeID, 0, 0)
	require.NoError(t, err)
	d := r.NewVolume("since")
	gone := dataset.Dataset{ID: uuid.New(), Volume: "gone", State: dataset.StateReady, Epoch: 1, Home: r.NodeID, Pool: d.Pool}
	r.Cache.Apply(gone, 1)
	require.NoError(t, r.Follower.Apply(t.Context(), s, was))
	if _, known := r.Cache.Dataset(d.ID); !known {
		t.Error("a volume that was made since is forgotten")
	}
	if _, known := r.Cache.Dataset(gone.ID); known {
		t.Error("a volume that is not on record is kept")
	}
}

// An answer that control gave before a volume came to this node does not remove the volume: the agent asks again.
func TestSyncOfRemovalBeforeArrivalIsIgnored(t *testing.T) {
	r := agenttest.New(t)
	asked := controlsync.KnownState{Moment: r.Cache.Moment()}
	d := r.NewVolume("db")
	stale := api.Sync{Cluster: r.Identity.Cluster(), RemovedDatasets: []uuid.UUID{d.ID}}
	if err := r.Follower.Apply(t.Context(), stale, asked); !errors.Is(err, controlsync.ErrAnswerOutdated) {
		t.Errorf("the answer is accepted: %v", err)
	}
	if _, known := r.Cache.Dataset(d.ID); !known {
		t.Fatal("it is forgotten")
	}
	assert.NoError(t, r.Follower.Apply(t.Context(), stale, controlsync.KnownState{Moment: r.Cache.Moment()}))
	if _, known := r.Cache.Dataset(d.ID); known {
		t.Error("what control says since is not believed")
	}
}

// An answer about a copy that control gave before this node became the home does not turn the home into a copy again.
func TestSyncOfCopyBeforeArrivalIsIgnored(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	before := d
	d.Epoch = 3
	r.Cache.Apply(d, 0)
	for epoch, left := range map[uint64]bool{2: false, 3: false, 4: true} {
		before.Epoch = epoch
		if got := r.Cache.ReplaceByCopy(api.AssignedCopy{Record: &before, Copy: dataset.Copy{Dataset: d.ID}}); got != left {
			t.Errorf("home at epoch 3, a copy of epoch %d: it is left: %t", epoch, got)
		}
		r.Cache.SetCopy(d.ID, nil)
		r.Cache.Apply(d, 0)
	}
}

// A store that was restored from a backup before a move does not make the former home the home again. The older state
// of the store is detected when the agent gets a full answer.
func TestRestoredStoreDoesNotReturnMovedVolume(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	d := r.NewVolume("db")
	gone := d
	gone.Home, gone.Epoch = uuid.New(), d.Epoch+1
	if !r.Cache.ReplaceByCopy(api.AssignedCopy{Record: &gone, Copy: dataset.Copy{Dataset: d.ID, Node: r.NodeID, Pool: d.Pool, Kind: dataset.CopyLeft}}) {
		t.Fatal("it is not left")
	}
	y := lease.Relinquished{Epoch: d.Epoch, Move: uuid.New(), To: gone.Home, Reported: true}
	require.NoError(t, r.Leases.Relinquish(ctx, d.ID, y))
	putBack := api.Sync{Cluster: r.Identity.Cluster(), Datasets: []api.IndexedDataset{{Dataset: d, Index: 1 << 40}}}
	if err := r.Follower.Apply(ctx, putBack, controlsync.KnownState{Moment: r.Cache.Moment()}); !errors.Is(err, controlsync.ErrStoreOlder) {
		t.Errorf("the answer is accepted: %v", err)
	}
	// The restored store does not know that it was relinquished.
	assert.NoError(t, r.DropIfUnneeded(ctx, d.ID, y))
	_, err := r.FetchDataset(ctx, d.ID)
	assert.NoError(t, err)
	if _, home := r.Cache.Dataset(d.ID); home {
		t.Error("this node takes itself for the home")
	}
	if _, left := r.Cache.Copy(d.ID); !left {
		t.Error("the copy of the volume that left is forgotten")
	}
	if _, given := r.Leases.Relinquished(d.ID); !given {
		t.Error("the epoch that was given up may be opened again")
	}
	if _, err := r.Mount(ctx, "db", "one"); err == nil {
		t.Error("it is mounted at an epoch that has ended")
	}
	if err := r.Leases.Drop(ctx, d.ID); err != nil { // otherwise the rig would check it
		t.Error(err)
	}
	r.Cache.SetCopy(d.ID, nil)
}

// A store that was restored from a backup before a move does not return an epoch to the former home either if that home
// has not heard yet that the move is over. What counts is that control had recorded the relinquishment.
func TestRestoredStoreDoesNotReturnRelinquishedEpoch(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	d := r.NewVolume("db")
	y := lease.Relinquished{Epoch: d.Epoch, Move: uuid.New(), To: uuid.New(), Reported: true}
	require.NoError(t, r.Leases.Relinquish(ctx, d.ID, y))
	if err := r.DropIfUnneeded(ctx, d.ID, y); err != nil { // the restored store does not know of the move
		t.Error(err)
	}
	if _, given := r.Leases.Relinquished(d.ID); !given {
		t.Error("the epoch that was given up may be opened again")
	}
	answer := func(epoch uint64, state dataset.LeaseState, full bool) api.Sync {
		d := d
		d.Epoch = epoch
		return api.Sync{Cluster: r.Identity.Cluster(), Full: full, RegistrationIndex: 1 << 41, StoreClock: 1 << 30,
			Datasets: []api.IndexedDataset{{Dataset: d, Index: 1 << 40, Lease: &dataset.Lease{State: state, Epoch: epoch}}}}
	}
	knew := r.Follower.KnownState()
	torn := answer(d.Epoch, dataset.LeaseHeld, true)
	torn.Datasets[0].Lease.Epoch++ // the move ended after control had read the record, and before it read the lease
	if err := r.Follower.Apply(ctx, torn, knew); err != nil || r.Trust.Err() != nil {
		t.Errorf("a lease of a later epoch than the record: %v, %v", err, r.Trust.Err())
	}
	assert.NoErrorf(t, r.Follower.Apply(ctx, answer(d.Epoch, dataset.LeaseMoving, false), knew), "while it moves")
	for _, state := range []dataset.LeaseState{dataset.LeaseHeld, dataset.LeaseRecalled} {
		if err := r.Follower.Apply(ctx, answer(d.Epoch, state, false), knew); !errors.Is(err, controlsync.ErrStoreOlder) {
			t.Errorf("%s: the answer is accepted: %v", state, err)
		}
	}
	early := controlsync.KnownState{Datasets: knew.Datasets}
	if err := r.Follower.Apply(ctx, answer(d.Epoch, dataset.LeaseHeld, true), early); !errors.Is(err, controlsync.ErrAnswerOutdated) {
		t.Errorf("an answer from before the relinquishment: %v", err)
	}
	if err := r.Follower.Apply(ctx, answer(d.Epoch, dataset.LeaseHeld, true), knew); err != nil || r.Trust.Err() == nil {
		t.Errorf("a full answer: %v, and the store is trusted", err)
	}
	if _, err := r.Mount(ctx, "db", "one"); err == nil {
		t.Error("it is mounted at an epoch that has ended")
	}
	r.Trust.Set("")
	if err := r.Follower.Apply(ctx, answer(d.Epoch+1, dataset.LeaseHeld, true), knew); err != nil || r.Trust.Err() != nil {
		t.Errorf("at a later epoch: %v, %v", err, r.Trust.Err())
	}
	if err := r.Leases.Drop(ctx, d.ID); err != nil { // otherwise the rig would check it
		t.Error(err)
	}
}

// If the reply to the answer was lost, control may have recorded that the epoch was relinquished. A store that does not
// know the move any more does not return the epoch. It returns it if the move ended, if its record has expired, or if
// no answer was sent.
func TestRestoredStoreDoesNotReturnEpochAfterLostReply(t *testing.T) {
	for name, c := range map[string]struct {
		unsent  bool
		age     time.Duration // of the answer
		known   bool          // control knows the move
		target  *target       // nil: control does not know it
		halted  bool          // another node has halted the store
		returns bool
		keeps   string // why the epoch stays relinquished, as in the error of a mount
	}{
		"the move is not known":             {},
		"its record may not have expired":   {age: api.OperationRetention - time.Minute, target: &target{live: true}},
		"its record has expired":            {age: expired, returns: true},
		"the target is away":                {age: expired, target: &target{}, keeps: "drover node fence target"},
		"the target restarts":               {age: expired, target: &target{live: true, restarts: true}, keeps: "for 1m0s first"},
		"the target reports":                {age: expired, target: &target{live: true}, returns: true},
		"the target is fenced":              {age: expired, target: &target{fenced: true}, returns: true},
		"the target has halted the store":   {age: expired, target: &target{live: true}, halted: true, keeps: suspended},
		"set back, and the target is away":  {age: -expired, target: &target{}, keeps: "drover node rm target"},
		"the clock was set back":            {age: -expired, target: &target{live: true}, returns: true},
		"no answer was sent":                {unsent: true, returns: true},
		"the move ended without the answer": {known: true, returns: true},
	} {
		t.Run(name, func(t *testing.T) {
			to := uuid.New()
			r := agenttest.New(t, func(a *agent.Config) {
				if c.target != nil {
					c.target.id, c.target.clock = to, a.Clock
					a.Control = withNode{a.Control, c.target}
				}
			})
			ctx := t.Context()
			d := r.NewVolume("db")
			y := lease.Relinquished{Epoch: d.Epoch, Move: uuid.New(), To: to}
			if c.known {
				// any operation that has ended
				out, err := r.Link.Service.Submit(ctx, api.Request{Kind: dataset.OpSnapshot, Volume: "db"})
				require.NoError(t, err)
				y.Move = out.Operation.ID
				for op := *out.Operation; !op.State.Final(); {
					op, err = r.Link.Operation(ctx, y.Move.String(), time.Second)
					require.NoError(t, err)
				}
			}
			if !c.unsent {
				// nothing was written for a long time
				y.Manifest = &dataset.Manifest{Snapshot: uuid.New(), Taken: time.Unix(0, 0)}
				y.Answered = r.Clock.Now().Add(-c.age)
			}
			require.NoError(t, r.Leases.Relinquish(ctx, d.ID, y))
			r.Link.ChangeSync(func(s *api.Sync) {
				if c.halted {
					s.Halted = suspended
				}
			})
			r.AnswerRecalls() // as after a heartbeat: control refuses the answer
			for range 2 {
				assert.NoError(t, r.DropIfUnneeded(ctx, d.ID, y))
				r.FakeClock.Advance(30 * time.Second)
			}
			if _, kept := r.Leases.Relinquished(d.ID); !kept && c.target != nil && !c.target.fenced {
				t.Error("the target was not reachable for a minute, and the epoch is open again")
			}
			r.FakeClock.Advance(30 * time.Second)
			for range 500 { // the heartbeats answer too, and may record an earlier reason
				assert.NoError(t, r.DropIfUnneeded(ctx, d.ID, y))
				if strings.Contains(fmt.Sprint(r.Leases.MayChange(d, "change")), c.keeps) {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			s, err := r.Link.Sync(ctx, r.NodeID, 0, 0)
			require.NoError(t, err)
			assert.NoError(t, r.Follower.Apply(ctx, s, r.Follower.KnownState()))
			if trusted := r.Trust.Err() == nil; trusted != (c.returns || c.keeps != "") {
				t.Errorf("the store is trusted: %t, want %t", trusted, !trusted)
			}
			if _, err := r.Mount(ctx, "db", "one"); (err == nil) != c.returns ||
				!strings.Contains(fmt.Sprint(err), c.keeps) {
				t.Errorf("mount: %v", err)
			} else if err == nil {
				err = r.Unmount(ctx, "db", "one")
				assert.NoError(t, err)
			}
			if err := r.Leases.Drop(ctx, d.ID); err != nil { // otherwise the rig would check it
				t.Error(err)
			}
		})
	}
}

// expired is the age of an answer to a move whose record has expired.
const expired = api.OperationRetention + time.Minute

// suspended is why a store is halted.
const suspended = "changes are suspended"

// target is the target of a move, as control knows it.
type target struct {
	live     bool
	restarts bool // it has registered again at each look
	fenced   bool

	id    uuid.UUID
	clock clock.Clock
}

// withNode is control with another node.
type withNode struct {
	api.Service
	target *target
}

func (c withNode) NodeList(ctx context.Context, filter string) ([]api.Node, error) {
	list, err := c.Service.NodeList(ctx, filter)
	n := api.Node{Live: c.target.live, Fenced: c.target.fenced}
	n.ID, n.Name = c.target.id, "target"
	if c.target.restarts {
		n.StatusSince = c.target.clock.Now()
	}
	return append(list, n), err
}

// leaves makes a node record that one of its volumes moved to another node, at an epoch.
func leaves(r *agenttest.Host, d dataset.Dataset, epoch uint64) {
	gone := d
	gone.Home, gone.Epoch = uuid.New(), epoch
	r.Cache.Remove(d.ID)
	r.Cache.SetCopy(d.ID, &api.AssignedCopy{Record: &gone, Copy: dataset.Copy{Dataset: d.ID, Node: r.NodeID, Pool: d.Pool, Kind: dataset.CopyLeft}})
}

// A full answer that undoes a move is rejected, however far its clock has advanced. An answer is accepted if it
// returns the volume to this node at a later epoch, or if its store was recovered with the holdings of this node.
func TestFullSyncThatUndoesMoveIsRejected(t *testing.T) {
	for name, c := range map[string]struct {
		clock    uint64
		epochs   uint64 // after the epoch at which the volume left
		recovery *api.RecoveryState
		knows    func(r *agenttest.Host) controlsync.KnownState
		believed bool
	}{
		"its clock is not behind":      {clock: 1 << 30},
		"its clock is behind":          {clock: 10},
		"it was recovered, without it": {clock: 1 << 30, recovery: &api.RecoveryState{ID: uuid.New(), Done: true}},
		"it was recovered, with it":    {clock: 10, recovery: &api.RecoveryState{ID: uuid.New(), Done: true, ReportIncluded: true}, believed: true},
		"it was rebuilt from here":     {clock: 1 << 30, knows: func(*agenttest.Host) controlsync.KnownState { return controlsync.KnownState{} }, believed: true},
		"the volume came back":         {clock: 1 << 30, epochs: 2, believed: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := agenttest.New(t)
			d := r.NewVolume("db")
			r.StoreClock.Raise(1000)
			leaves(r, d, d.Epoch+1)
			says := d
			says.Epoch += c.epochs
			if c.knows == nil {
				c.knows = func(r *agenttest.Host) controlsync.KnownState { return r.Follower.KnownState() }
			}
			answer := api.Sync{Cluster: r.Identity.Cluster(), Full: true, RegistrationIndex: 1 << 41, StoreClock: c.clock, Recovery: c.recovery, Datasets: []api.IndexedDataset{{Dataset: says, Index: 1 << 40}}}
			require.NoError(t, r.Follower.Apply(t.Context(), answer, c.knows(r)))
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
				assert.NoError(t, err)
			}
			r.Cache.SetCopy(d.ID, nil) // otherwise the rig would check it
		})
	}
}

// An answer that was requested before the agent learned of the move, and arrives after it, is not from a restored
// store: the agent asks for everything again.
func TestFullSyncRequestedBeforeMoveIsRepeated(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	before := r.Follower.KnownState()
	leaves(r, d, d.Epoch+1)
	answer := api.Sync{Cluster: r.Identity.Cluster(), Full: true, RegistrationIndex: 1 << 41, StoreClock: 1 << 30, Datasets: []api.IndexedDataset{{Dataset: d, Index: before.Datasets[d.ID].Index}}}
	assert.ErrorIsf(t, r.Follower.Apply(t.Context(), answer, before), controlsync.ErrAnswerOutdated, "it was taken in")
	_, home := r.Cache.Dataset(d.ID)
	if err := r.Trust.Err(); err != nil || home {
		t.Errorf("home %t; the store: %v", home, err)
	}
	r.Cache.SetCopy(d.ID, nil) // or the rig looks after it
}

// A restored store may still name this node as the home of a volume that has left. Until the restore is detected, the
// agent does not follow the store, and no operation does: the data on this node may be what the real home continues
// from. If the epoch is the same, the answer of control is newer than what the agent knew, and is followed.
func TestOperationOnMovedVolumeOfRestoredStore(t *testing.T) {
	for epochs, refused := range map[uint64]bool{0: false, 1: true} {
		r := agenttest.New(t)
		d := r.NewVolume("db")
		for _, kind := range []dataset.OpKind{dataset.OpSnapshot, dataset.OpDelete} {
			leaves(r, d, d.Epoch+epochs)
			op := dataset.Operation{ID: uuid.New(), Kind: kind, Node: r.NodeID, Volume: "db", DatasetID: d.ID, Epoch: d.Epoch}
			_, _, unlock, err := r.LockForOperation(t.Context(), op, "test")
			unlock()
			if errors.Is(err, dataset.ErrStale) != refused || !refused && err != nil {
				t.Errorf("%s, %d epochs later: %v", kind, epochs, err)
			}
		}
		leaves(r, d, d.Epoch+epochs)
		if err := r.Remove(t.Context(), "db"); (err != nil) != refused {
			t.Errorf("removal, %d epochs later: %v", epochs, err)
		}
		r.Cache.SetCopy(d.ID, nil)
	}
}
