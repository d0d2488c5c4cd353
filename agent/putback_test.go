package agent

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

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/lineage"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A disk is put back under a running agent. Whatever is done in the pool first finds that, with
// no heartbeat between: it is not raised over, and nothing is mounted or given from it.
func TestPutBackIsFoundByWhatComesFirst(t *testing.T) {
	for what, does := range map[string]func(r *rig, d dataset.Dataset) error{
		"raise": func(r *rig, d dataset.Dataset) error {
			r.pools.Changed(d.Pool, true)
			return errors.Join(r.generations.Raise(r.t.Context()), r.pools.Free(d.Pool))
		},
		"mount": func(r *rig, d dataset.Dataset) error {
			_, err := r.Mount(r.t.Context(), d.Volume, "id")
			return err
		},
		"snapshot for another node": func(r *rig, d dataset.Dataset) error {
			_, _, err := r.source.Freshen(r.t.Context(), d.ID, nil)
			return err
		},
		"list for another node": func(r *rig, d dataset.Dataset) error {
			_, err := r.source.Pool(r.t.Context(), d.ID)
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t)
			d, putBack := r.raised()
			r.writes(d, "new")
			putBack()
			if err := does(r, d); !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), wayOut) {
				t.Error(err)
			}
			if g, err := r.pools.All()[0].Storage.Generation(); g != 1 || err != nil {
				t.Errorf("it caught up: %d, %v", g, err)
			}
			r.holds(d)
		})
	}
}

// ahead is a volume whose replica on b has a snapshot of which a, the home, knows nothing once
// its disk is put back by the function that is returned.
func (f *flock) ahead() (d dataset.Dataset, has dataset.Copy, putBack func() pool.Record) {
	f.Helper()
	d = f.a.volume("db@safe", map[string]string{"size": "320MiB"})
	await(f.T, func() bool { return !f.upToOn(f.b, "db").IsZero() })
	at := func(least uint64) func() bool {
		return func() bool {
			g, err := f.a.thePool().Generation()
			return err == nil && g >= least
		}
	}
	await(f.T, at(1))
	op := f.a.pools.All()[0]
	f.a.down()
	kept := filepath.Join(filepath.Dir(op.Path), "kept")
	if out, err := exec.CommandContext(f.Context(), "cp", "-a", "--reflink=always", op.Path, kept).CombinedOutput(); err != nil {
		f.Fatal(string(out), err)
	}
	f.a.cfg.Limits.Heartbeat = time.Hour // refreshes are a second apart
	f.a.up()
	await(f.T, at(op.Generation+1))
	f.a.writes("db", "token", "new")
	written := time.Now()
	await(f.T, func() bool { return f.hasSince(f.b, "db", written) })
	has, _ = f.b.replicas.Copy(d.ID)
	return d, has, func() pool.Record {
		if err := errors.Join(os.Rename(op.Path, op.Path+".newer"), os.Rename(kept, op.Path)); err != nil {
			f.Fatal(err)
		}
		rec := op.Record
		rec.Generation = op.Generation
		return rec
	}
}

// keepsNewer fails unless b, which asks a for what is newer, is given nothing, and keeps what
// it has.
func (f *flock) keepsNewer(d dataset.Dataset, has dataset.Copy, want error) {
	f.Helper()
	asB := move.WithAsker(f.Context(), f.b.Node())
	if _, _, err := f.a.source.Freshen(asB, d.ID, nil); !errors.Is(err, want) {
		f.Error(err)
	}
	if _, err := f.a.source.Pool(asB, d.ID); !errors.Is(err, want) {
		f.Error(err)
	}
	if _, _, err := f.a.source.Tree(asB, d.ID, has.Snapshot); !errors.Is(err, want) {
		f.Error(err)
	}
	if err := f.b.replicas.Refresh(f.Context(), &jobs.Job{}, d.ID); err == nil {
		f.Error("it was refreshed")
	}
	if e, err := f.b.thePool().Stat(f.Context(), d.ID); err != nil || lineage.IndexOf(e, has.Snapshot) < 0 {
		f.Errorf("the newer snapshot is gone from the replica (%v)", err)
	}
}

// A replica that is refreshed before a heartbeat looked keeps what is newer than the disk that
// was put back to its home.
func TestReplicaOfWhatWasPutBackKeepsTheNewer(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	d, has, putBack := f.ahead()
	putBack()
	f.keepsNewer(d, has, dataset.ErrOffline)
}

// unregistered is a control that lets no agent in while it is away.
type unregistered struct {
	api.Service
	away *atomic.Bool
}

func (u unregistered) Register(ctx context.Context, r api.Registration) error {
	if u.away.Load() {
		return errAway
	}
	return u.Service.Register(ctx, r)
}

// A host that was put back, its own record with it, starts with control away from it alone: it
// mounts what is its own, and gives other nodes nothing before control has said what it was.
func TestReplicaOfAHostThatWasPutBackKeepsTheNewer(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	d, has, putBack := f.ahead()
	f.a.down()
	if err := f.a.DB.Put(t.Context(), map[string]any{"pools/default": putBack()}); err != nil {
		t.Fatal(err)
	}
	var away atomic.Bool
	away.Store(true)
	f.a.cfg.Control = unregistered{f.a.cfg.Control, &away}
	f.a.up()
	f.keepsNewer(d, has, dataset.ErrUnavailable)
	f.a.mounts("db", "alone")
	f.a.unmounts("db", "alone")
	f.keepsNewer(d, has, dataset.ErrUnavailable)
	away.Store(false)
	await(t, func() bool { return f.a.pools.Free(d.Pool) != nil })
	f.keepsNewer(d, has, dataset.ErrOffline)
}

// A pool that another node wants something of before anybody was asked about it is asked about
// then.
func TestPeersWaitForNoHeartbeat(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	r.at(1)
	r.pools.Change(d.Pool, func(op *pool.Pool) { op.Heard = false })
	for _, away := range []bool{true, false} {
		if away {
			r.link.away()
		} else {
			r.link.back()
			await(t, func() bool {
				r.clock.Advance(r.Limits.Retry)
				_, err := r.Control.Volume(t.Context(), "db")
				return err == nil
			})
		}
		_, err := r.source.Pool(t.Context(), d.ID)
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

// A copy keeps what it was given, later than all that its home has still of the same epoch;
// what users see goes as it went there, and what is of an epoch before.
func TestCopyKeepsWhatIsLaterThanItsHome(t *testing.T) {
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
		err := lineage.DropMissing(t.Context(), p, uuid.New(), []uuid.UUID{older.ID, c.gone.ID}, last)
		left := map[bool]int{true: 1, false: 3}[c.goes]
		if (err == nil) != c.goes || !c.goes && !errors.Is(err, dataset.ErrConflict) || len(p.snapshots) != left {
			t.Errorf("%s: %v, %d are left", what, err, len(p.snapshots))
		}
	}
}
