package generation_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// A disk is restored to an older state under a running agent. The first operation in the pool detects that, whichever
// it is and without a heartbeat in between: the generation is not raised, and nothing in the pool is mounted or sent.
func TestRestoredDiskIsFoundByFirstOperation(t *testing.T) {
	for what, does := range map[string]func(r *agenttest.Host, d dataset.Dataset) error{
		"raise": func(r *agenttest.Host, d dataset.Dataset) error {
			r.Pools.MarkChanged(d.Pool, true)
			return errors.Join(r.Generations.Raise(r.T.Context()), r.Pools.CheckQuarantine(d.Pool))
		},
		"mount": func(r *agenttest.Host, d dataset.Dataset) error {
			_, err := r.Mount(r.T.Context(), d.Volume, "id")
			return err
		},
		"snapshot for another node": func(r *agenttest.Host, d dataset.Dataset) error {
			_, _, err := r.TransferSource.TakeSnapshot(r.T.Context(), d.ID, nil)
			return err
		},
		"list for another node": func(r *agenttest.Host, d dataset.Dataset) error {
			_, err := r.TransferSource.Pool(r.T.Context(), d.ID)
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			r := agenttest.New(t)
			d, putBack := raised(r)
			writes(r, d, "new")
			putBack()
			if err := does(r, d); !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), wayOut) {
				t.Error(err)
			}
			if g, err := r.Pools.All()[0].Storage.Generation(); g != 1 || err != nil {
				t.Errorf("it caught up: %d, %v", g, err)
			}
			holds(r, d)
		})
	}
}

// ahead makes a volume whose replica on b has a snapshot that its home a does not know once the returned function has
// restored the disk of a.
func ahead(f *agenttest.Cluster) (d dataset.Dataset, has dataset.Copy, putBack func() pool.Record) {
	f.Helper()
	d = f.A.NewVolume("db@safe", map[string]string{"size": "320MiB"})
	agenttest.Await(f.T, func() bool { return !f.ReplicaTimeOn(f.B, "db").IsZero() })
	at := func(least uint64) func() bool {
		return func() bool {
			g, err := f.A.Pool().Generation()
			return err == nil && g >= least
		}
	}
	agenttest.Await(f.T, at(1))
	p := f.A.Pools.All()[0]
	f.A.Stop()
	kept := filepath.Join(filepath.Dir(p.Path), "kept")
	if out, err := exec.CommandContext(f.Context(), "cp", "-a", "--reflink=always", p.Path, kept).CombinedOutput(); err != nil {
		f.Fatal(string(out), err)
	}
	f.A.Config.Timing.Heartbeat = time.Hour // refreshes are a second apart
	f.A.Start()
	agenttest.Await(f.T, at(p.Generation+1))
	f.A.WriteFile("db", "token", "new")
	written := time.Now()
	agenttest.Await(f.T, func() bool { return f.ReplicaHasSince(f.B, "db", written) })
	has, _ = f.B.Replicas.Copy(d.ID)
	return d, has, func() pool.Record {
		require.NoError(f, errors.Join(os.Rename(p.Path, p.Path+".newer"), os.Rename(kept, p.Path)))
		rec := p.Record
		rec.Generation = p.Generation
		return rec
	}
}

// keepsNewer fails unless b, which asks a for newer data, gets nothing and keeps what it has.
func keepsNewer(f *agenttest.Cluster, d dataset.Dataset, has dataset.Copy, want error) {
	f.Helper()
	asB := move.WithRequester(f.Context(), f.B.Node())
	if _, _, err := f.A.TransferSource.TakeSnapshot(asB, d.ID, nil); !errors.Is(err, want) {
		f.Error(err)
	}
	if _, err := f.A.TransferSource.Pool(asB, d.ID); !errors.Is(err, want) {
		f.Error(err)
	}
	if _, _, err := f.A.TransferSource.OpenTree(asB, d.ID, has.Snapshot); !errors.Is(err, want) {
		f.Error(err)
	}
	if err := f.B.Replicas.Refresh(f.Context(), &host.Job{}, d.ID); err == nil {
		f.Error("it was refreshed")
	}
	if e, err := f.B.Pool().Stat(f.Context(), d.ID); err != nil || host.IndexOf(e, has.Snapshot) < 0 {
		f.Errorf("the newer snapshot is gone from the replica (%v)", err)
	}
}

// A replica that is refreshed before a heartbeat has examined the restored disk of its home keeps the data that is
// newer than that disk.
func TestReplicaKeepsNewerDataThanRestoredHome(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d, has, putBack := ahead(f)
	putBack()
	keepsNewer(f, d, has, dataset.ErrOffline)
}

// unregistered is a control that registers no agent while away is set.
type unregistered struct {
	api.Service
	away *atomic.Bool
}

func (u unregistered) Register(ctx context.Context, r api.Registration) error {
	if u.away.Load() {
		return agenttest.ErrUnreachable
	}
	return u.Service.Register(ctx, r)
}

// A host that was restored together with its record starts while control is unreachable for it. It mounts its
// volumes, but sends nothing to other nodes before control has said which generation the pool had.
func TestReplicaKeepsNewerDataThanRestoredHost(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d, has, putBack := ahead(f)
	f.A.Stop()
	require.NoError(t, f.A.DB.Put(t.Context(), map[string]any{"pools/default": putBack()}))
	var away atomic.Bool
	away.Store(true)
	f.A.Config.Control = unregistered{f.A.Config.Control, &away}
	f.A.Start()
	keepsNewer(f, d, has, dataset.ErrUnavailable)
	f.A.MustMount("db", "alone")
	f.A.MustUnmount("db", "alone")
	keepsNewer(f, d, has, dataset.ErrUnavailable)
	away.Store(false)
	agenttest.Await(t, func() bool { return f.A.Pools.CheckQuarantine(d.Pool) != nil })
	keepsNewer(f, d, has, dataset.ErrOffline)
}

// If another node requests data of a pool before control was asked about its generation, control is asked then.
func TestGenerationIsAskedWhenPeerRequestsData(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	at(r, 1)
	r.Pools.Change(d.Pool, func(p *pool.Pool) { p.GenerationKnown = false })
	for _, away := range []bool{true, false} {
		if away {
			r.Link.Cut()
		} else {
			r.Link.Mend()
			agenttest.Await(t, func() bool {
				r.FakeClock.Advance(r.Timing.Retry)
				_, err := r.Control.Volume(t.Context(), "db")
				return err == nil
			})
		}
		_, err := r.TransferSource.Pool(t.Context(), d.ID)
		if errors.Is(err, dataset.ErrUnavailable) != away || !away && err != nil {
			t.Errorf("away %t: %v", away, err)
		}
	}
}

// pile is a pool that has some snapshots of a dataset.
type pile struct {
	backends.Pool
	snapshots []dataset.Snapshot
}

func (p *pile) Stat(context.Context, uuid.UUID) (backends.Entry, error) {
	return backends.Entry{Snapshots: slices.Clone(p.snapshots)}, nil
}

func (p *pile) DeleteSnapshot(_ context.Context, _, id uuid.UUID) error {
	p.snapshots = slices.DeleteFunc(p.snapshots, func(s dataset.Snapshot) bool { return s.ID == id })
	return nil
}

// A copy keeps the snapshots that it was given, if they are later than all that its home still has of the same epoch.
// The snapshots that users see are removed as they were removed at the home, and so are those of an earlier epoch.
func TestCopyKeepsSnapshotsLaterThanItsHomeHas(t *testing.T) {
	at := func(kind dataset.SnapshotKind, epoch uint64, minute int) dataset.Snapshot {
		return dataset.Snapshot{ID: uuid.New(), Kind: kind, Epoch: epoch, Created: time.Unix(0, 0).Add(time.Duration(minute) * time.Minute)}
	}
	last := at(dataset.SnapshotTransfer, 2, 10)
	for what, c := range map[string]struct {
		gone dataset.Snapshot
		goes bool
	}{
		"earlier":         {at(dataset.SnapshotTransfer, 2, 9), true},
		"later":           {at(dataset.SnapshotTransfer, 2, 11), false},
		"of epoch before": {at(dataset.SnapshotTransfer, 1, 11), true},
		"by hand, later":  {at(dataset.SnapshotManual, 2, 11), true},
	} {
		older := at(dataset.SnapshotTransfer, 2, 1)
		p := &pile{snapshots: []dataset.Snapshot{older, last, c.gone}}
		err := host.DropMissing(t.Context(), p, uuid.New(), []uuid.UUID{older.ID, c.gone.ID}, last)
		left := map[bool]int{true: 1, false: 3}[c.goes]
		if (err == nil) != c.goes || !c.goes && !errors.Is(err, dataset.ErrConflict) || len(p.snapshots) != left {
			t.Errorf("%s: %v, %d are left", what, err, len(p.snapshots))
		}
	}
}

// stubborn is backend dir whose pools cannot store a generation, as when their disk is full.
type stubborn struct {
	dir.Backend
	stubborn atomic.Bool
	asked    atomic.Int32
	raised   func() // called after a raise, if it is not nil
}

func (b *stubborn) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := b.Backend.Open(ctx, cfg)
	return stubbornPool{p, b}, err
}

type stubbornPool struct {
	backends.Pool
	b *stubborn
}

func (p stubbornPool) Raise(to uint64) error {
	if p.b.asked.Add(1); p.b.stubborn.Load() {
		return dataset.Errorf(dataset.ErrNoSpace, "no space")
	}
	err := p.Pool.Raise(to)
	if p.b.raised != nil {
		p.b.raised()
	}
	return err
}

// A raise is recorded although the agent stops after the pool has the new generation.
func TestI1RaiseIsRecordedWhenAgentStops(t *testing.T) {
	b := &stubborn{}
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(b) })
	at(r, 1)
	ctx, stop := context.WithCancel(t.Context())
	b.raised = stop
	p, _ := r.Pools.ByName("default")
	if err := r.Pools.Raise(ctx, p, 7); err != nil || ctx.Err() == nil {
		t.Fatalf("raise: got error %v, context %v", err, ctx.Err())
	}
	if got := r.Pools.ByID(p.ID).Record.Generation; got != 7 {
		t.Errorf("recorded generation: got %d, want 7", got)
	}
}

// The generation of a pool is raised every pool.RaiseEvery while something in the pool is in use or was changed, and
// soon after the pool became the home of a dataset. The generation of an idle pool is not raised. A pool whose
// generation cannot be raised is still served, and the raise is retried at the same interval.
func TestPoolIsRaisedWhileUsedOrChanged(t *testing.T) {
	b := &stubborn{}
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(b) })
	nothing := func(context.Context, *host.Job) error { return nil }
	look := func(want uint64, what string) {
		t.Helper()
		r.Generations.RaiseDue()
		_, err := r.Jobs.Do(t.Context(), "generations", "raising", nothing)
		require.NoError(t, err)
		require.NoError(t, r.Generations.Raise(t.Context()))
		// The start of an agent raises the pool as well, in the background.
		_, err = r.Jobs.Do(t.Context(), "generation/"+r.Pools.All()[0].ID.String(), "raising", nothing)
		require.NoError(t, err)
		if g, err := r.Pools.All()[0].Storage.Generation(); g != want || err != nil {
			t.Errorf("%s: generation %d, %v; want %d", what, g, err, want)
		}
	}
	at(r, 1)
	r.FakeClock.Advance(3 * pool.RaiseEvery)
	look(1, "idle")
	d := r.NewVolume("db")
	look(2, "a volume was made")
	r.MountDataset(d, "id")
	look(2, "in use, for a moment")
	r.FakeClock.Advance(pool.RaiseEvery)
	look(3, "in use")
	r.FakeClock.Advance(pool.RaiseEvery)
	look(4, "still in use")
	r.Pools.MarkChanged(d.Pool, true)
	look(5, "a home came")
	b.stubborn.Store(true)
	r.FakeClock.Advance(pool.RaiseEvery)
	look(5, "it takes none")
	asked := b.asked.Load()
	look(5, "it takes none")
	if got := b.asked.Load(); got != asked {
		t.Errorf("asked %d times more at once", got-asked)
	}
	assert.NoError(t, r.Unmount(t.Context(), "db", "id"))
	r.Restart()
	r.MountDataset(d, "id")
	look(5, "it takes none after a start")
	b.stubborn.Store(false)
	r.FakeClock.Advance(pool.RaiseEvery)
	look(6, "it takes one again")
	assert.NoError(t, r.Unmount(t.Context(), "db", "id"))
}
