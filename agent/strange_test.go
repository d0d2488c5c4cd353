package agent

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func (r *rig) pool() backends.Pool {
	r.t.Helper()
	p, ok := r.pools.ByName("default")
	if !ok || p.Storage == nil {
		r.t.Fatal("no pool")
	}
	return p.Storage
}

// incoming makes a dataset as a create does that is cut short before its commit.
func (r *rig) incoming() dataset.Dataset {
	r.t.Helper()
	d := dataset.Dataset{ID: uuid.New(), Volume: "cut", State: dataset.StateReady, Epoch: 1, Home: r.NodeID, Pool: r.pool().ID()}
	if _, err := r.pool().Create(r.t.Context(), d); err != nil {
		r.t.Fatal(err)
	}
	return d
}

// doubts returns what doctor says of the store.
func (r *rig) doubts() (text string) {
	r.t.Helper()
	found, err := r.Doctor(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range found {
		if f.Subject == "store" && f.Level == findings.Error {
			text += f.Text
		}
	}
	return text
}

// A store that is not the one the agent knew, or is older, has nothing destroyed:
// not what it condemns, not what it does not know, not a snapshot. It is named,
// and when it is itself again all of that is done.
func TestStrangeStoreDestroysNothing(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*api.Sync)
		says   string
	}{
		"another": {func(s *api.Sync) { s.Cluster = uuid.MustParse("00000000-0000-4000-8000-000000000009") }, "another one"},
		"an older index": {func(s *api.Sync) {
			for i := range s.Datasets {
				s.Datasets[i].Index = 1
			}
		}, "older"},
		"an older epoch": {func(s *api.Sync) {
			for i := range s.Datasets {
				s.Datasets[i].Epoch = 0
			}
		}, "older"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			ctx := t.Context()
			db, doomed := r.volume("db"), r.volume("doomed")
			cut := r.incoming()
			r.link.answers(func(s *api.Sync) {
				for i, d := range s.Datasets {
					if d.ID == doomed.ID {
						s.Datasets[i].State = dataset.StatePurging
						s.Datasets[i].Index = 1 << 40
					}
				}
				c.change(s)
			})
			r.restart()
			await(t, func() bool { return len(r.Jobs.Running()) == 0 })
			if got := r.inPool("datasets"); len(got) != 2 || len(r.inPool("incoming")) != 1 {
				t.Fatalf("in the pool: %v, incoming %v", got, r.inPool("incoming"))
			}
			if got := r.doubts(); !strings.Contains(got, c.says) {
				t.Errorf("doctor says %q, want %q", got, c.says)
			}
			if now, ok := r.Cache.Dataset(db.ID); !ok || now.State != dataset.StateReady || now.Epoch != db.Epoch {
				t.Errorf("it is known as %+v, %t", now, ok)
			}
			for _, kind := range []dataset.OpKind{dataset.OpPurge, dataset.OpSnapshotDelete, dataset.OpRestore} {
				op := dataset.Operation{
					ID: uuid.New(), Kind: kind, Node: r.NodeID, Volume: "db", DatasetID: db.ID, Epoch: db.Epoch,
					Snapshot: &dataset.Snapshot{ID: uuid.New(), Dataset: db.ID}, Source: &dataset.Source{Dataset: db.ID, Snapshot: uuid.New()},
				}
				_, err := r.executor.Execute(ctx, &jobs.Job{}, op)
				if !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "drover store rebuild") {
					t.Errorf("%s: %v", kind, err)
				}
			}
			// What is home here is used as ever.
			r.mount(db, "id")
			r.want(db, "id")
			if err := r.Unmount(ctx, "db", "id"); err != nil {
				t.Error(err)
			}

			r.link.answers(nil)
			r.restart()
			if got := r.doubts(); got != "" {
				t.Errorf("doctor says %q", got)
			}
			if left := r.inPool("incoming"); len(left) != 0 {
				t.Errorf("incoming: %v, of which %s was never acknowledged", left, cut.ID)
			}
		})
	}
}

// A dataset that the agent saw on record, and that the store has forgotten, is
// left where it lies, incoming or not.
func TestForgottenByTheStore(t *testing.T) {
	r := newRig(t)
	db := r.volume("db")
	if err := r.Cache.SaveChanged(t.Context(), r.DB); err != nil {
		t.Fatal(err)
	}
	pool := filepath.Join(r.root, "pool")
	if err := os.Rename(filepath.Join(pool, "datasets", db.ID.String()), filepath.Join(pool, "incoming", db.ID.String())); err != nil {
		t.Fatal(err)
	}
	r.link.answers(func(s *api.Sync) { s.Datasets = nil })
	r.restart()
	if left := r.inPool("incoming"); len(left) != 1 {
		t.Errorf("incoming: %v", left)
	}
}

// A store that was put back from a backup may lack nothing but a volume that was
// made since. The volume is not forgotten, or Docker would make another of its name;
// nor after a restart, with which the store's indexes have come further.
func TestOlderStoreLacksAVolume(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	r.volume("old")
	late := r.volume("late")
	if err := r.Cache.SaveChanged(ctx, r.DB); err != nil {
		t.Fatal(err)
	}
	for _, index := range []uint64{1, 1 << 40} {
		r.link.answers(func(s *api.Sync) {
			s.Index = index
			s.Datasets = slices.DeleteFunc(s.Datasets, func(d api.Indexed) bool { return d.ID == late.ID })
		})
		r.restart()
		if got := r.doubts(); !strings.Contains(got, "older") || !strings.Contains(got, "late") {
			t.Fatalf("index %d: doctor says %q", index, got)
		}
		if err := r.Create(ctx, "new", nil); !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "drover store rebuild") {
			t.Errorf("create: %v", err)
		}
		r.mount(late, "id")
		r.want(late, "id")
		if err := r.Unmount(ctx, "late", "id"); err != nil {
			t.Error(err)
		}
	}
	r.link.answers(nil)
	if _, err := r.RebuildStore(ctx, false); err != nil {
		t.Fatal(err)
	}
	if got := r.doubts(); got != "" {
		t.Errorf("doctor says %q", got)
	}
	r.volume("new")
}

// A record beside the data that is out of date, or cannot be read, is renewed at
// the next start; a right one is left alone.
func TestNotesAreRenewed(t *testing.T) {
	r := newRig(t)
	db, right := r.volume("db"), r.volume("right")
	file := func(d dataset.Dataset) string {
		return filepath.Join(r.root, "pool", "datasets", d.ID.String(), "dataset.json")
	}
	before, err := os.Stat(file(right))
	if err != nil {
		t.Fatal(err)
	}
	for _, damage := range []func() error{
		func() error { return os.WriteFile(file(db), []byte("no record"), 0o600) },
		func() error {
			old := db
			old.Volume = "older"
			return r.pool().WriteRecord(t.Context(), old, true)
		},
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		r.restart()
		await(t, func() bool {
			e, err := r.pool().Stat(t.Context(), db.ID)
			return err == nil && e.Record != nil && e.Record.Volume == "db"
		})
	}
	after, err := os.Stat(file(right))
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the right one was written anew (%v)", err)
	}
}

// The agent's own state is lost: it is the same node, with the same pools and
// volumes, and what was mounted stays so until nobody has it.
func TestStateLost(t *testing.T) {
	r := newRig(t)
	db := r.volume("db")
	r.mount(db, "id")
	node, poolID := r.NodeID, r.pool().ID()
	if err := r.forgetAll(); err != nil {
		t.Fatal(err)
	}
	r.restart()
	if r.NodeID != node || r.pool().ID() != poolID {
		t.Errorf("node %s with pool %s, want %s with %s", r.NodeID, r.pool().ID(), node, poolID)
	}
	if got := r.doubts(); got != "" {
		t.Errorf("doctor says %q", got)
	}
	r.want(db, mounting.UnknownUse)
	if err := r.Remove(t.Context(), "db"); !errors.Is(err, dataset.ErrInUse) {
		t.Errorf("remove: %v", err)
	}
	r.after(mounting.InheritedGrace + mounting.VerifyEvery)
	r.after(mounting.VerifyEvery)
	r.want(db)
	if err := r.Remove(t.Context(), "db"); err != nil {
		t.Error(err)
	}
}

// forgetAll empties the agent's own state.
func (r *rig) forgetAll() error {
	list, err := r.config.State.List(r.t.Context(), "", "", 0)
	if err != nil {
		return err
	}
	values := map[string]any{}
	for _, e := range list {
		values[e.Key] = nil
	}
	return r.DB.Put(r.t.Context(), values)
}
