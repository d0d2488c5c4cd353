package agent

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// What is condemned and could not be destroyed, as the host was still in it, goes
// later, without a restart.
func TestCondemnedIsTriedAgain(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	d := r.volume("db")
	if err := r.Remove(ctx, "db"); err != nil {
		t.Fatal(err)
	}
	if err := mounting.MakeMountPoint(r.MountPath(d.ID)); err != nil {
		t.Fatal(err)
	}
	if err := r.mounter.MountDataset(ctx, r.pool(), d, r.MountPath(d.ID)); err != nil {
		t.Fatal(err)
	}
	shell, err := os.Open(r.MountPath(d.ID))
	if err != nil {
		t.Fatal(err)
	}
	defer shell.Close()
	out, err := r.link.Service.Submit(ctx, api.Request{ID: uuid.New(), Kind: dataset.OpPurge, Volume: d.ID.String()})
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		op, known := r.operations.Lookup(ctx, out.Operation.ID)
		return known && op.State == dataset.OpFailed
	})
	if err := shell.Close(); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		r.clock.Advance(controlsync.PurgeEvery)
		return len(r.inPool("datasets")) == 0
	})
}

// A volume that was condemned, and is none that is any more since a backup of the store was
// put back and recovered, stays.
func TestCondemnedNoMore(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	op := dataset.Operation{ID: uuid.New(), Kind: dataset.OpPurge, Node: r.NodeID, Volume: "db", DatasetID: d.ID, Epoch: d.Epoch}
	for _, state := range []dataset.State{dataset.StateReady, dataset.StateTrashed} {
		d.State = state
		r.Cache.Apply(d, r.Cache.Index(d.ID)+1)
		if _, err := r.executor.Execute(t.Context(), &jobs.Job{}, op); !errors.Is(err, dataset.ErrStale) {
			t.Errorf("a purge of a volume that is %s: %v", state, err)
		}
	}
	if _, err := r.pool().Stat(t.Context(), d.ID); err != nil {
		t.Errorf("what it was of: %v", err)
	}
}

// A copy that was condemned while its node was away is asked about before it goes: when the
// home has lost the volume meanwhile it is a replica again; with control away it stays; and
// it goes once the home is well.
func TestCondemnedCopyIsAskedAbout(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	d := f.a.volume("db@safe", map[string]string{"size": "320MiB"})
	f.a.writes("db", "token", "one")
	written := time.Now()
	await(t, func() bool { return f.hasSince(f.b, "db", written) })
	f.b.down()
	updates := func(req api.Request) {
		t.Helper()
		req.ID, req.Kind, req.Volume = uuid.New(), dataset.OpUpdate, "db"
		if _, err := f.svc.Submit(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	updates(api.Request{Profile: "plain"})
	await(t, func() bool { return f.kept().Kind == dataset.CopyGoing })
	e, err := f.a.thePool().Stat(t.Context(), d.ID)
	if err != nil {
		t.Fatal(err)
	}
	says := func(from, to string, well bool) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
		f.a.News.Changed(d.ID)
		await(t, func() bool { st := f.record("db").Status; return st != nil && (st.Problem == "") == well })
	}
	aside := e.Path + ".aside"
	says(e.Path, aside, false)

	way := newLink(f.b.cfg.Control)
	f.b.cfg.Control = way
	f.b.up()
	await(t, func() bool { k, kept := f.b.Cache.Copy(d.ID); return kept && k.Kind == dataset.CopyReplica })
	if kind := f.kept().Kind; kind != dataset.CopyReplica {
		t.Errorf("on record it is %s", kind)
	}
	k, _ := f.b.Cache.Copy(d.ID)
	k.Kind, k.Was = dataset.CopyGoing, dataset.CopyReplica
	for _, away := range []bool{false, true} {
		if away {
			way.away()
		}
		f.b.Cache.SetCopy(d.ID, &k)
		if err := f.b.copies.Settle(t.Context(), d.ID); away && !errors.Is(err, dataset.ErrUnavailable) || !away && err != nil {
			t.Errorf("control away %v: %v", away, err)
		}
		if _, err := f.b.thePool().Stat(t.Context(), d.ID); err != nil {
			t.Fatalf("control away %v: what was the last copy: %v", away, err)
		}
	}
	way.back()
	says(aside, e.Path, true)
	on := true
	updates(api.Request{Protect: &on})
	await(t, func() bool {
		_, err := f.b.thePool().Stat(t.Context(), d.ID)
		return errors.Is(err, dataset.ErrNotFound)
	})
}

// What a removal is answered with is taken in before the dataset is let go: the purge that
// follows would be done by then, and the record come back.
func TestRemovedStaysRemoved(t *testing.T) {
	r := newRigOf(t, []byte("default: gone\nprofiles: {gone: {on_delete: purge}}\n"))
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
	await(t, func() bool { return len(r.inPool("datasets")) == 0 && len(r.Jobs.Running()) == 0 })
	await(t, func() bool { return len(r.Cache.IDs()) == 0 })
}
