package controlsync_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// A store whose recovery included the holdings of this node is accepted whatever its indexes are, once and for all: a
// dataset that the store does not name no longer belongs to this node. A store that was recovered without them is
// compared with what the agent knows, and lacks the datasets that were made since.
func TestRecoveredStoreIsAcceptedWhateverItsIndexes(t *testing.T) {
	for _, heard := range []bool{true, false} {
		r := agenttest.New(t)
		kept, late := r.NewVolume("kept"), r.NewVolume("late")
		answer := func(done, heard bool) {
			id := uuid.MustParse("00000000-0000-4000-8000-000000000008")
			r.Link.ChangeSync(func(s *api.Sync) {
				s.RegistrationIndex, s.StoreClock, s.Recovery = 1<<40, 60, &api.RecoveryState{ID: id, Done: done, ReportIncluded: heard}
				s.Datasets = slices.DeleteFunc(s.Datasets, func(d api.IndexedDataset) bool { return d.ID == late.ID })
				for i, d := range s.Datasets {
					if d.ID == kept.ID && done {
						s.Datasets[i].Epoch, s.Datasets[i].Index = kept.Epoch+1, 1
					}
				}
			})
		}
		if heard { // the other agent has seen neither the clock nor the first answer
			r.StoreClock.Raise(61)
			answer(false, false)
			r.Restart()
			if got := r.StoreFinding(); !strings.Contains(got, "late") {
				t.Fatalf("before the recovery doctor says %q", got)
			}
		}
		answer(true, heard)
		r.Restart()
		_, knows := r.Cache.Dataset(late.ID)
		if got := r.StoreFinding(); (got == "") != heard || knows == heard {
			t.Errorf("heard %t: doctor says %q, it knows of it: %t", heard, got, knows)
		}
		if d, _ := r.Cache.Dataset(kept.ID); heard && (d.Epoch != kept.Epoch+1 || d.State != dataset.StateReady) {
			t.Errorf("heard %t: %+v", heard, d)
		}
		if !heard {
			continue
		}
		r.Link.ChangeSync(func(s *api.Sync) { // the same store, which was restored from an older backup since
			s.RegistrationIndex, s.StoreClock, s.Datasets = 1<<41, 59, nil
			s.Recovery = &api.RecoveryState{ID: uuid.MustParse("00000000-0000-4000-8000-000000000008"), Done: true, ReportIncluded: true}
		})
		r.Restart()
		if got := r.StoreFinding(); !strings.Contains(got, "kept") {
			t.Errorf("it believes whatever comes after a recovery: doctor says %q", got)
		}
	}
}

// The holdings of a node are the datasets in its pools, the known datasets of its offline pools, the copies that it
// keeps, and the datasets that it has relinquished.
func TestHoldingsListPoolsCopiesAndRelinquished(t *testing.T) {
	r := agenttest.New(t)
	db := r.NewVolume("db")
	require.NoError(t, r.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db"}))
	away := dataset.Dataset{ID: uuid.New(), Volume: "away", State: dataset.StateReady, Epoch: 3, Home: r.NodeID, Pool: uuid.New()}
	r.Cache.Apply(away, 7)
	k := api.AssignedCopy{Copy: dataset.Copy{Dataset: uuid.New(), Node: r.NodeID, Pool: r.Pool().ID(), Epoch: 2}}
	r.Cache.SetCopy(k.Dataset, &k)
	require.NoError(t, r.Leases.Relinquish(t.Context(), db.ID, lease.Relinquished{Epoch: db.Epoch, To: uuid.Max}))
	h, err := r.Holdings.List(t.Context())
	require.NoError(t, err)
	if !slices.Equal(h.ExaminedPools, []uuid.UUID{r.Pool().ID()}) || len(h.Copies) != 1 || !slices.Equal(h.Relinquished, []api.RelinquishedEpoch{{Dataset: db.ID, Epoch: db.Epoch, ToNode: uuid.Max}}) {
		t.Errorf("%+v", h)
	}
	want := map[uuid.UUID]int{db.ID: 1, away.ID: 0}
	for _, f := range h.Datasets {
		if n, ok := want[f.Dataset.ID]; !ok || n != len(f.Snapshots) || f.Index == 0 || f.Dataset.Home != r.NodeID {
			t.Errorf("found %+v", f)
		}
		delete(want, f.Dataset.ID)
	}
	if len(want) != 0 {
		t.Errorf("not found: %v", want)
	}
}

// crowded is a control replica that accepts the holdings of a node only after a number of requests.
type crowded struct {
	api.Service
	most  int64
	asked atomic.Int64
	took  chan uuid.UUID
}

func (c *crowded) ReportHoldings(_ context.Context, _ uuid.UUID, h api.Holdings) error {
	if c.asked.Add(1) < c.most {
		return dataset.Errorf(dataset.ErrUnavailable, "16 holdings are under way, which is the most at once (try again when one has ended)")
	}
	c.took <- h.Recovery
	return nil
}

// A replica that did not ask for holdings, as it has no recovery, refuses them once. That is not reported as an
// error.
func TestReplicaThatRefusesHoldingsIsNotLogged(t *testing.T) {
	r := agenttest.New(t)
	for refusal, want := range map[error]error{
		dataset.Errorf(dataset.ErrConflict, "it was not asked"): nil,
		dataset.Errorf(dataset.ErrStale, "another agent"):       dataset.ErrStale,
	} {
		if err := r.Holdings.Send(t.Context(), &refusing{Service: r.Link, err: refusal}, api.Holdings{}); !errors.Is(err, want) {
			t.Errorf("%v: %v", refusal, err)
		}
	}
}

type refusing struct {
	api.Service
	err error
}

func (r *refusing) ReportHoldings(context.Context, uuid.UUID, api.Holdings) error { return r.err }

// A replica gets the holdings of this node as soon as it accepts them, even if other replicas are unreachable. It
// also gets them for a second recovery.
func TestHoldingsAreReportedOnceReplicaAccepts(t *testing.T) {
	r := agenttest.New(t)
	took := make(chan uuid.UUID, 1)
	busy := &crowded{Service: r.Link, most: controlsync.MaxSendAttempts - 5, took: took}
	r.ControlReplicas = []api.Service{&crowded{Service: r.Link, most: math.MaxInt64}, busy}
	r.Restart()
	for range 2 {
		want := uuid.New()
		r.Holdings.SendSoon(want)
		agenttest.Await(t, func() bool {
			if len(took) == 0 && busy.asked.Load() < busy.most { // in the first round
				r.FakeClock.Advance(r.Timing.Retry)
			}
			return len(took) > 0
		})
		if got := <-took; got != want {
			t.Errorf("it was told for recovery %s, not %s", got, want)
		}
	}
}

// A dataset that was purged while its pool was offline stays condemned in a rebuild, unless the record beside the
// data is from a later epoch. In that case a recovery has revived the dataset since, and the agent lost its copy of
// the later record.
func TestPurgedDatasetIsReportedUnlessRevived(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	purging := d
	purging.State = dataset.StatePurging
	r.Cache.Apply(purging, 1<<30)
	for epoch, want := range map[uint64]dataset.State{d.Epoch: dataset.StatePurging, d.Epoch + 1: dataset.StateReady} {
		beside := d
		beside.Epoch = epoch
		e := backends.Entry{ID: d.ID, State: backends.EntryReady, Record: &beside}
		f, ok := r.Holdings.FoundDataset(e, false)
		if !ok || f.Dataset.State != want {
			t.Errorf("record of epoch %d, purged in epoch %d: state %q, %t; want %q", epoch, d.Epoch, f.Dataset.State, ok, want)
		}
	}
}

// Work may end while the holdings are listed: a create that was refused has discarded its dataset, and a purge has
// destroyed one. The list was read before, and nothing needs or knows the dataset afterwards. The holdings must not
// name it, or a recovery of the store would record a volume that has no data.
func TestDatasetThatGoesMeanwhileIsNotReported(t *testing.T) {
	r := agenttest.New(t)
	stays, purged := r.NewVolume("stays"), r.NewVolume("purged")
	discarded := stays
	discarded.ID, discarded.Volume = uuid.New(), "discarded"
	_, err := r.Pool().Create(t.Context(), discarded)
	require.NoError(t, err)
	r.Cache.Remove(purged.ID)
	r.Trust.Set("it is older than what this node has seen")
	controlsync.SetCleaner(r.Sync, asking{r.Cleaner, func(id uuid.UUID) {
		if id == discarded.ID { // the list of the pool has been read
			for _, gone := range []uuid.UUID{discarded.ID, purged.ID} {
				assert.NoError(t, r.Pool().Delete(t.Context(), gone))
			}
		}
	}})
	h, err := r.Holdings.List(t.Context())
	require.NoError(t, err)
	var names []string
	for _, f := range h.Datasets {
		names = append(names, f.Dataset.Volume)
	}
	if slices.Contains(names, "discarded") || slices.Contains(names, "purged") || !slices.Contains(names, stays.Volume) {
		t.Errorf("the holdings name %q", names)
	}
}

// asking is a Cleaner that calls a function before it answers whether a dataset is needed.
type asking struct {
	controlsync.Cleaner
	before func(id uuid.UUID)
}

func (a asking) IsNeeded(id uuid.UUID) bool {
	a.before(id)
	return a.Cleaner.IsNeeded(id)
}
