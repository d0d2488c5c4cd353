package operation_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// A condemned dataset that could not be destroyed because the host still used it is destroyed later, without a
// restart.
func TestPurgeOfBusyDatasetIsRetried(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	d := r.NewVolume("db")
	require.NoError(t, r.Remove(ctx, "db"))
	require.NoError(t, mounting.MakeMountPoint(r.MountPath(d.ID)))
	require.NoError(t, r.Mounts.MountDataset(ctx, r.Pool(), d, r.MountPath(d.ID)))
	shell, err := os.Open(r.MountPath(d.ID))
	require.NoError(t, err)
	defer shell.Close()
	out, err := r.Link.Service.Submit(ctx, api.Request{ID: uuid.New(), Kind: dataset.OpPurge, Volume: d.ID.String()})
	require.NoError(t, err)
	agenttest.Await(t, func() bool {
		op, known := r.Runner.Lookup(ctx, out.Operation.ID)
		return known && op.State == dataset.OpFailed
	})
	require.NoError(t, shell.Close())
	agenttest.Await(t, func() bool {
		r.FakeClock.Advance(controlsync.PurgeEvery)
		return len(r.ListPool("datasets")) == 0
	})
}

// A condemned volume stays if it is no longer condemned because a backup of the store was restored and recovered.
func TestPurgeRevokedByRecoveredStore(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	op := dataset.Operation{ID: uuid.New(), Kind: dataset.OpPurge, Node: r.NodeID, Volume: "db", DatasetID: d.ID, Epoch: d.Epoch}
	for _, state := range []dataset.State{dataset.StateReady, dataset.StateTrashed} {
		d.State = state
		r.Cache.Apply(d, r.Cache.Index(d.ID)+1)
		if _, err := r.Execute(t.Context(), &host.Job{}, op); !errors.Is(err, dataset.ErrStale) {
			t.Errorf("a purge of a volume that is %s: %v", state, err)
		}
	}
	if _, err := r.Pool().Stat(t.Context(), d.ID); err != nil {
		t.Errorf("what it was of: %v", err)
	}
}

// A purge that control refused, because a backup of the store was restored that had the volume, is pending until the
// recovery has forgotten the volume.
func TestRefusedPurgeOfForgottenDataset(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	d.State = dataset.StatePurging
	r.Cache.Apply(d, r.Cache.Index(d.ID)+1)
	op := dataset.Operation{ID: uuid.New(), Kind: dataset.OpPurge, Node: r.NodeID, Volume: "db", DatasetID: d.ID, Epoch: d.Epoch}
	if _, err := r.Execute(t.Context(), &host.Job{}, op); !errors.Is(err, dataset.ErrConflict) {
		t.Errorf("a purge of a dataset that the store has as a volume: %v", err)
	}
	if list := r.Remover.PendingPurges(); len(list) != 1 || list[0].Dataset.ID != d.ID {
		t.Errorf("while it is condemned: %+v", list)
	}
	r.Cache.Remove(d.ID)
	if list := r.Remover.PendingPurges(); len(list) > 0 {
		t.Errorf("once it is forgotten: %+v", list)
	}
}

// If a copy was condemned while its node was unreachable, the node asks control before it removes the copy. If the
// home has lost the volume meanwhile, the copy is a replica again. While control is unreachable the copy stays. It is
// removed once the home is healthy.
func TestPurgeOfCopyAsksControlFirst(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db@safe", map[string]string{"size": "320MiB"})
	f.A.WriteFile("db", "token", "one")
	written := time.Now()
	agenttest.Await(t, func() bool { return f.ReplicaHasSince(f.B, "db", written) })
	f.B.Stop()
	updates := func(req api.Request) {
		t.Helper()
		req.ID, req.Kind, req.Volume = uuid.New(), dataset.OpUpdate, "db"
		if _, err := f.Service.Submit(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	updates(api.Request{Profile: "plain"})
	agenttest.Await(t, func() bool { return f.KeptCopy().Kind == dataset.CopyCondemned })
	e, err := f.A.Pool().Stat(t.Context(), d.ID)
	require.NoError(t, err)
	says := func(from, to string, well bool) {
		t.Helper()
		require.NoError(t, os.Rename(from, to))
		f.A.News.Changed(d.ID)
		agenttest.Await(t, func() bool { st := f.Recorded("db").Status; return st != nil && (st.Problem == "") == well })
	}
	aside := e.Path + ".aside"
	says(e.Path, aside, false)

	way := agenttest.NewLink(f.B.Config.Control)
	f.B.Config.Control = way
	f.B.Start()
	agenttest.Await(t, func() bool { k, kept := f.B.Cache.Copy(d.ID); return kept && k.Kind == dataset.CopyReplica })
	if kind := f.KeptCopy().Kind; kind != dataset.CopyReplica {
		t.Errorf("on record it is %s", kind)
	}
	k, _ := f.B.Cache.Copy(d.ID)
	k.Kind, k.PreviousKind = dataset.CopyCondemned, dataset.CopyReplica
	for _, away := range []bool{false, true} {
		if away {
			way.Cut()
		}
		f.B.Cache.SetCopy(d.ID, &k)
		if err := f.B.Copies.Reconcile(t.Context(), d.ID); away && !errors.Is(err, dataset.ErrUnavailable) || !away && err != nil {
			t.Errorf("control away %v: %v", away, err)
		}
		if _, err := f.B.Pool().Stat(t.Context(), d.ID); err != nil {
			t.Fatalf("control away %v: what was the last copy: %v", away, err)
		}
	}
	way.Mend()
	says(aside, e.Path, true)
	on := true
	updates(api.Request{Protect: &on})
	agenttest.Await(t, func() bool {
		_, err := f.B.Pool().Stat(t.Context(), d.ID)
		return errors.Is(err, dataset.ErrNotFound)
	})
}

// The answer to a removal is applied before the lock of the dataset is released. Otherwise the following purge would
// be done by then, and the record would return.
func TestRemovalIsAppliedBeforeDatasetIsReleased(t *testing.T) {
	r := agenttest.NewWithProfiles(t, []byte("default: gone\nprofiles: {gone: {on_delete: purge}}\n"))
	ctx := t.Context()
	var all sync.WaitGroup
	for user := range 4 {
		all.Go(func() {
			for i := range 100 {
				name := fmt.Sprintf("db%d-%d", user, i)
				err := r.Create(ctx, name, nil)
				if err == nil {
					err = r.Remove(ctx, name)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	agenttest.Await(t, func() bool { return len(r.ListPool("datasets")) == 0 && len(r.Jobs.Running()) == 0 })
	agenttest.Await(t, func() bool { return len(r.Cache.IDs()) == 0 })
}

// TestOwnPurgeIsNotRecorded: the agent repeats its own purges after each start. If they were recorded because they take
// long, each start would leave another operation.
func TestOwnPurgeIsNotRecorded(t *testing.T) {
	late := lateControl{records: make(chan api.Report, 2)}
	r := agenttest.New(t, func(c *agent.Config) {
		late.Service = c.Control
		c.Control = late
	})
	d := r.NewVolume("db")
	run := func(kind dataset.OpKind, do func()) {
		t.Helper()
		op := dataset.Operation{
			ID: uuid.New(), Kind: kind, Node: r.NodeID, Volume: "db", DatasetID: d.ID, DatasetRecord: &d, Epoch: d.Epoch,
			State: dataset.OpPending, Created: r.Clock.Now(),
		}
		err := r.Runner.Run(t.Context(), &host.Job{}, op, func(context.Context, *dataset.Operation) error {
			do()
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	run(dataset.OpPurge, func() {
		r.FakeClock.Advance(10 * host.RecordAfter)
		run(dataset.OpResize, func() { // a later operation is recorded, so a purge would be recorded as well
			agenttest.Await(t, func() bool { r.FakeClock.Advance(host.RecordAfter); return len(late.records) > 0 })
		})
	})
	if first := <-late.records; first.Operation.Kind != dataset.OpResize || len(late.records) > 0 {
		t.Errorf("first record: %s, %d more, want that of the resize alone", first.Operation.Kind, len(late.records))
	}
}

// An operation that waits for the dataset's lock while the volume is deleted changes nothing in the trash, and fails.
func TestOperationAfterDeleteChangesNothing(t *testing.T) {
	for _, req := range []api.Request{
		{Kind: dataset.OpResize, Size: "600MiB"},
		{Kind: dataset.OpRestore, Snapshot: "first"},
		{Kind: dataset.OpSnapshot, Name: "second"},
	} {
		t.Run(string(req.Kind), func(t *testing.T) {
			r := newLoopHost(t, 0)
			d := r.NewVolume("db", map[string]string{"size": "300MiB"})
			first := api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "first"}
			require.NoError(t, r.Perform(t.Context(), first))
			before, err := r.Pool().Stat(t.Context(), d.ID)
			require.NoError(t, err)
			unlock, err := r.Locks.Lock(t.Context(), d.ID, "test")
			require.NoError(t, err)
			ended := make(chan error, 1)
			req.Volume = "db"
			go func() { ended <- r.Perform(t.Context(), req) }()
			agenttest.Await(t, func() bool { return r.Locks.Users(d.ID) == 2 })
			deleted, _ := r.Cache.Dataset(d.ID)
			deleted.State, deleted.Trash = dataset.StateTrashed, &dataset.Trash{At: d.Created}
			r.Cache.Apply(deleted, 0)
			unlock()
			if err := <-ended; !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "deleted meanwhile") {
				t.Errorf("%v", err)
			}
			after, err := r.Pool().Stat(t.Context(), d.ID)
			if err != nil || after.Record.Size != before.Record.Size || len(after.Snapshots) != len(before.Snapshots) {
				t.Errorf("%+v, %v, was %+v", after, err, before)
			}
		})
	}
}

// wantIdle fails unless control shows a volume as idle, with its usage.
func wantIdle(t *testing.T, r *agenttest.Host, d dataset.Dataset, what string, used dataset.Size) {
	t.Helper()
	v, err := r.Control.Volume(t.Context(), d.ID.String())
	if err != nil || v.Status == nil {
		t.Fatalf("%s: %+v, %v", what, v.Status, err)
	}
	if v.Status.Mounted || v.Status.Problem != "" || used > 0 && (v.Status.InPool == nil || *v.Status.InPool < used) {
		t.Errorf("%s: %+v", what, v.Status)
	}
}

// Users who look at a volume that was just created, cloned, imported or restored from the trash see its status. The
// clock of the test does not move, so no heartbeat reports it.
func TestStatusIsKnownAfterCreate(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) *agenttest.Host{
		"loop": func(t *testing.T) *agenttest.Host { return newLoopHost(t, 0) },
		"dir":  func(t *testing.T) *agenttest.Host { return agenttest.New(t) },
	} {
		t.Run(name, func(t *testing.T) {
			r, ctx := start(t), t.Context()
			var used dataset.Size
			if name == "loop" {
				used = 1
			}
			made := r.NewVolume("db")
			wantIdle(t, r, made, "create", used)
			wantIdle(t, r, r.NewVolume("copy", map[string]string{"from": "db"}), "clone", used)
			var archive bytes.Buffer
			require.NoError(t, tar.NewWriter(&archive).Close())
			imported, err := r.Import(ctx, api.Request{ID: uuid.New(), Volume: "imported"}, &archive)
			require.NoError(t, err)
			wantIdle(t, r, imported, "import", used)
			require.NoError(t, r.Remove(ctx, "db"))
			_, err = r.Link.Service.Submit(ctx, api.Request{ID: uuid.New(), Kind: dataset.OpUndelete, Volume: made.ID.String()})
			require.NoError(t, err)
			wantIdle(t, r, made, "restored from the trash", used)
		})
	}
}
