package generation_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// at waits until the pool of a rig reports a generation, and control knows it.
func at(r *agenttest.Host, generation uint64) {
	r.T.Helper()
	agenttest.Await(r.T, func() bool {
		r.FakeClock.Advance(controlsync.SettleTime) // a heartbeat may wait for the settle time
		p, _ := r.Pools.ByName("default")
		g, err := p.Storage.Generation()
		return err == nil && g == generation && p.Generation == g && r.Link.HighestGeneration() == g
	})
}

// raised makes a volume with data, saves the pool at that moment, and raises the pool by a restart. The returned
// function stops the agent and restores the pool to the saved generation, which is older than the known one.
func raised(r *agenttest.Host) (d dataset.Dataset, putBack func()) {
	r.T.Helper()
	at(r, 1)
	d = r.NewVolume("db")
	writes(r, d, "old")
	putBack = r.SavePool("pool")
	r.Restart()
	at(r, 2)
	return d, putBack
}

func writes(r *agenttest.Host, d dataset.Dataset, text string) {
	r.T.Helper()
	r.MountDataset(d, "writer")
	require.NoError(r.T, os.WriteFile(filepath.Join(r.MountPath(d.ID), "file"), []byte(text), 0o600))
	require.NoError(r.T, r.Unmount(r.T.Context(), d.Volume, "writer"))
}

func reads(r *agenttest.Host, d dataset.Dataset) string {
	r.T.Helper()
	r.MountDataset(d, "reader")
	b, err := os.ReadFile(filepath.Join(r.MountPath(d.ID), "file"))
	require.NoError(r.T, errors.Join(err, r.Unmount(r.T.Context(), d.Volume, "reader")))
	return string(b)
}

const wayOut = "drover pool accept default, on node host-a"

// holds fails unless the pool is quarantined: nothing in it is mounted, made, changed or destroyed.
func holds(r *agenttest.Host, d dataset.Dataset) {
	r.T.Helper()
	ctx := r.T.Context()
	r.Reporter.ReportAll(ctx)
	for what, err := range map[string]error{
		"mount": r.CallsByName(d.Volume)["mount"], "create": r.Create(ctx, "new", nil),
		"snapshot": r.Perform(ctx, api.Request{Kind: dataset.OpSnapshot, Volume: d.Volume}),
	} {
		if !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), "held") || !strings.Contains(err.Error(), wayOut) || strings.Contains(err.Error(), "\n") {
			r.T.Errorf("%s: %v", what, err)
		}
	}
	if v, err := r.Get(ctx, d.Volume); err != nil || !strings.Contains(v.Status["problem"].(string), "pool default is held") {
		r.T.Errorf("get: %+v, %v", v.Status, err)
	}
	list, err := r.Control.Pools(ctx)
	if err != nil || list[0].Status == nil || !list[0].Status.Quarantined || list[0].Status.Online || !strings.Contains(list[0].Status.Reason, wayOut) {
		r.T.Errorf("control shows %+v, %v", list, err)
	}
	found, err := r.Doctor(ctx)
	require.NoError(r.T, err)
	said := 0
	for _, f := range found {
		if f.Subject == "pool default" && f.Level == api.LevelError && strings.Contains(f.Text, "is held") && strings.Contains(f.Text, wayOut) && strings.HasPrefix(f.Fix, "drover pool accept default") {
			said++
		}
	}
	if said != 1 {
		r.T.Errorf("doctor says %+v", found)
	}
}

// A pool whose disk was restored to an older state is quarantined, however often the agent starts, and stays
// unchanged. Once an operator accepts it, it serves with its present data, for good.
func TestRestoredPoolIsHeldUntilAccepted(t *testing.T) {
	r, ctx := agenttest.New(t), t.Context()
	d, putBack := raised(r)
	writes(r, d, "new")
	cfg := r.Config
	r.Stop()
	putBack()
	if err := os.Mkdir(filepath.Join(r.Root, "pool/incoming", uuid.NewString()), 0o700); err != nil {
		t.Fatal(err) // left by an earlier crash: it is not known whether it may be removed
	}
	for range 3 {
		r.StartWith(cfg)
		holds(r, d)
		holds(r, d)
		if g, err := r.Pools.All()[0].Storage.Generation(); g != 1 || err != nil {
			t.Errorf("it caught up: %d, %v", g, err)
		}
		if got := r.ListPool("incoming"); len(got) != 1 {
			t.Errorf("incoming: %v", got)
		}
		r.Stop()
	}
	r.StartWith(cfg)
	if _, err := r.AcceptPool(ctx, "default", api.AcceptPool{}); !errors.Is(err, dataset.ErrInvalid) || !strings.Contains(err.Error(), "set confirmed") {
		t.Errorf("without a word: %v", err)
	}
	if _, err := r.AcceptPool(ctx, "other", api.AcceptPool{Confirmed: true}); !errors.Is(err, dataset.ErrInvalid) || !strings.Contains(err.Error(), `"other"`) {
		t.Errorf("another pool: %v", err)
	}
	for _, confirmed := range []bool{false, true} {
		if p, err := r.AcceptPool(ctx, "default", api.AcceptPool{Confirmed: confirmed, DryRun: true}); err != nil || p.Name != "default" {
			t.Errorf("dry run: %+v, %v", p, err)
		}
	}
	holds(r, d) // a dry run accepts nothing
	if p, err := r.AcceptPool(ctx, "default", api.AcceptPool{Confirmed: true}); err != nil || p.Name != "default" {
		t.Fatalf("%+v, %v", p, err)
	}
	for _, dry := range []bool{true, false} {
		if _, err := r.AcceptPool(ctx, "default", api.AcceptPool{Confirmed: true, DryRun: dry}); !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "pool default is not held on node host-a") {
			t.Errorf("again, dry run %t: %v", dry, err)
		}
	}
	at(r, 3)
	if got := reads(r, d); got != "old" {
		t.Errorf("it has %q", got)
	}
	r.Restart()
	at(r, 4)
	writes(r, d, "newer")
}

// If the agent's root was restored as well, the generation that control knows decides. While control is unreachable
// that is not known: a dataset that is mounted meanwhile stays mounted and can be unmounted, but nothing new begins
// once control has answered.
func TestRestoredHostAsksControlForGenerations(t *testing.T) {
	r := agenttest.New(t)
	at(r, 1)
	d := r.NewVolume("db")
	putBack := r.SavePool("pool")
	r.Restart()
	at(r, 2)
	older := func() {
		p := r.Pools.All()[0]
		rec := p.Record
		rec.Generation = 1
		cfg := r.Config
		r.Stop()
		putBack()
		require.NoError(t, r.DB.Put(t.Context(), map[string]any{"pools/default": rec}))
		r.StartWith(cfg)
	}
	older()
	holds(r, d)

	r.Link.Cut()
	older()
	r.MountDataset(d, "before")
	r.Link.Mend()
	agenttest.Await(t, func() bool {
		r.FakeClock.Advance(r.Timing.Retry)
		return r.Pools.CheckQuarantine(d.Pool) != nil
	})
	if _, err := r.Mount(t.Context(), "db", "after"); !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), wayOut) {
		t.Errorf("one more use: %v", err)
	}
	r.WantUses(d, "before")
	assert.NoError(t, r.Unmount(t.Context(), "db", "before"))
	r.WantUses(d)
	holds(r, d)

	r.Link.Cut() // now the newer disk is used again
	r.Restart()
	if _, err := r.Mount(t.Context(), "db", "alone"); !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), wayOut) {
		t.Errorf("with control away: %v", err)
	}
	r.Link.Mend()
}

// The newer disk ends the quarantine, without a restart.
func TestNewerDiskEndsHold(t *testing.T) {
	r := agenttest.New(t)
	at(r, 1)
	d := r.NewVolume("db")
	older := r.SavePool("pool")
	r.Restart()
	at(r, 2)
	newer := r.SavePool("pool")
	older()
	agenttest.Await(t, func() bool {
		r.FakeClock.Advance(r.Timing.Heartbeat)
		return r.Pools.CheckQuarantine(d.Pool) != nil
	})
	holds(r, d)
	newer()
	agenttest.Await(t, func() bool {
		r.FakeClock.Advance(r.Timing.Heartbeat)
		return r.Pools.CheckQuarantine(d.Pool) == nil
	})
	r.MountDataset(d, "id")
	assert.NoError(t, r.Unmount(t.Context(), "db", "id"))
}

// Without a restored disk no pool is quarantined: not after restarts, nor after a crash between the raise and its
// report; not by a new store; not after the agent's root was lost.
func TestPoolIsNotHeldWithoutRestore(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	serves := func(what string) {
		t.Helper()
		assert.NoErrorf(t, r.Pools.CheckQuarantine(d.Pool), "%s", what)
		r.MountDataset(d, "id")
		assert.NoErrorf(t, r.Unmount(t.Context(), "db", "id"), "%s", what)
	}
	at(r, 1)
	raised := func(to uint64) {
		t.Helper()
		require.NoError(t, r.Pools.All()[0].Storage.Raise(to))
	}
	cfg := r.Config
	r.Stop()
	raised(2) // and the agent was killed before it reported that
	r.StartWith(cfg)
	serves("not told")
	at(r, 3)
	r.Restart()
	serves("after a restart")
	at(r, 4)

	r.LoseStore(true)
	_, err := r.RebuildStore(t.Context(), api.RebuildStore{})
	require.NoError(t, err)
	serves("another store and root")
	r.Restart()
	serves("another store and root, again")
}

// A pool that is adopted in an older state than the known one is quarantined before anything of it is on record. It
// returns completely once the operator accepts it.
func TestRestoredPoolIsHeldWhenAdopted(t *testing.T) {
	r, ctx := agenttest.New(t), t.Context()
	d, putBack := raised(r)
	cfg := r.Config
	r.Stop()
	putBack()
	moved := filepath.Join(r.Root, "moved")
	require.NoError(t, os.Rename(filepath.Join(r.Root, "pool"), moved))
	r.StartWith(cfg)
	if _, _, err := r.AdoptPool(ctx, moved, false); !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), wayOut) || !strings.Contains(err.Error(), "drover pool adopt "+moved) {
		t.Fatalf("adopt: %v", err)
	}
	holds(r, d)
	_, err := r.AcceptPool(ctx, "default", api.AcceptPool{Confirmed: true})
	require.NoError(t, err)
	_, _, err = r.AdoptPool(ctx, moved, false)
	require.NoError(t, err)
	if got := reads(r, d); got != "old" {
		t.Errorf("it has %q", got)
	}
}
