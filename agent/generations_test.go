package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// at waits until the pool of a rig says that it is of a generation, and control has heard so.
func (r *rig) at(generation uint64) {
	r.t.Helper()
	await(r.t, func() bool {
		r.clock.Advance(controlsync.SettleTime) // a heartbeat may wait for it
		op, _ := r.pools.ByName("default")
		g, err := op.Storage.Generation()
		return err == nil && g == generation && op.Generation == g && r.link.highestSaid() == g
	})
}

// raised makes a volume with something in it, keeps the pool as it is then, and starts anew:
// what it returns puts the pool back, to an older generation than is known, with the agent down.
func (r *rig) raised() (d dataset.Dataset, putBack func()) {
	r.t.Helper()
	r.at(1)
	d = r.volume("db")
	r.writes(d, "old")
	putBack = r.saved("pool")
	r.restart()
	r.at(2)
	return d, putBack
}

// saved is a pool as it is now; what it returns puts it back, with the agent down.
func (r *rig) saved(folder string) (putBack func()) {
	r.t.Helper()
	pool, kept := filepath.Join(r.root, folder), r.t.TempDir()
	carry := func(to, from string) {
		err := os.RemoveAll(to)
		if err == nil {
			err = os.CopyFS(to, os.DirFS(from))
		}
		if err == nil {
			err = os.Chmod(to, 0o700)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
	carry(kept, pool)
	return func() { carry(pool, kept) }
}

func (r *rig) writes(d dataset.Dataset, text string) {
	r.t.Helper()
	r.mount(d, "writer")
	if err := os.WriteFile(filepath.Join(r.MountPath(d.ID), "file"), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := r.Unmount(r.t.Context(), d.Volume, "writer"); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) reads(d dataset.Dataset) string {
	r.t.Helper()
	r.mount(d, "reader")
	b, err := os.ReadFile(filepath.Join(r.MountPath(d.ID), "file"))
	if err := errors.Join(err, r.Unmount(r.t.Context(), d.Volume, "reader")); err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

const wayOut = "drover pool accept default --confirmed, on node host-a"

// holds fails unless the pool is held: nothing in it is mounted, made, changed or destroyed.
func (r *rig) holds(d dataset.Dataset) {
	r.t.Helper()
	ctx := r.t.Context()
	r.reporter.ReportAll(ctx)
	for what, err := range map[string]error{
		"mount": r.calls(d.Volume)["mount"], "create": r.Create(ctx, "new", nil),
		"snapshot": r.requests.Perform(ctx, api.Request{Kind: dataset.OpSnapshot, Volume: d.Volume}),
	} {
		if !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), "held") || !strings.Contains(err.Error(), wayOut) || strings.Contains(err.Error(), "\n") {
			r.t.Errorf("%s: %v", what, err)
		}
	}
	if v, err := r.Get(ctx, d.Volume); err != nil || !strings.Contains(v.Status["problem"].(string), "pool default is held") {
		r.t.Errorf("get: %+v, %v", v.Status, err)
	}
	list, err := r.Control.Pools(ctx)
	if err != nil || list[0].Status == nil || !list[0].Status.Held || list[0].Status.Online || !strings.Contains(list[0].Status.Reason, wayOut) {
		r.t.Errorf("control shows %+v, %v", list, err)
	}
	found, err := r.Doctor(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	said := 0
	for _, f := range found {
		if f.Subject == "pool default" && f.Level == findings.Error && strings.Contains(f.Text, "is held") && strings.Contains(f.Text, wayOut) && strings.HasPrefix(f.Mend, "drover pool accept default --confirmed") {
			said++
		}
	}
	if said != 1 {
		r.t.Errorf("doctor says %+v", found)
	}
}

// A pool whose disk was put back to an older state is held, however often the agent starts,
// and stays as it is; a person accepts it, and it serves with what it has, for good.
func TestPoolThatWasPutBackIsHeld(t *testing.T) {
	r, ctx := newRig(t), t.Context()
	d, putBack := r.raised()
	r.writes(d, "new")
	cfg := r.config
	r.close()
	putBack()
	if err := os.Mkdir(filepath.Join(r.root, "pool/incoming", uuid.NewString()), 0o700); err != nil {
		t.Fatal(err) // what a crash left before: whether it goes is not known
	}
	for range 3 {
		r.start(cfg)
		r.holds(d)
		r.holds(d)
		if g, err := r.pools.All()[0].Storage.Generation(); g != 1 || err != nil {
			t.Errorf("it caught up: %d, %v", g, err)
		}
		if got := r.inPool("incoming"); len(got) != 1 {
			t.Errorf("incoming: %v", got)
		}
		r.close()
	}
	r.start(cfg)
	if _, err := r.AcceptPool(ctx, "default", api.AcceptPool{}); !errors.Is(err, dataset.ErrInvalid) || !strings.Contains(err.Error(), "--confirmed") {
		t.Errorf("without a word: %v", err)
	}
	if _, err := r.AcceptPool(ctx, "other", api.AcceptPool{Confirmed: true}); !errors.Is(err, dataset.ErrInvalid) || !strings.Contains(err.Error(), `"other"`) {
		t.Errorf("another pool: %v", err)
	}
	r.holds(d)
	if p, err := r.AcceptPool(ctx, "default", api.AcceptPool{Confirmed: true}); err != nil || p.Name != "default" {
		t.Fatalf("%+v, %v", p, err)
	}
	if _, err := r.AcceptPool(ctx, "default", api.AcceptPool{Confirmed: true}); !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "pool default is not held on node host-a") {
		t.Errorf("again: %v", err)
	}
	r.at(3)
	if got := r.reads(d); got != "old" {
		t.Errorf("it has %q", got)
	}
	r.restart()
	r.at(4)
	r.writes(d, "newer")
}

// The word of control is what counts when the agent's own root was put back as well; with
// control away that is not known, and what is mounted meanwhile stays so and is given back,
// but nothing new begins once it is.
func TestHostThatWasPutBack(t *testing.T) {
	r := newRig(t)
	r.at(1)
	d := r.volume("db")
	putBack := r.saved("pool")
	r.restart()
	r.at(2)
	older := func() {
		p := r.pools.All()[0]
		rec := p.Record
		rec.Generation = 1
		cfg := r.config
		r.close()
		putBack()
		if err := r.DB.Put(t.Context(), map[string]any{"pools/default": rec}); err != nil {
			t.Fatal(err)
		}
		r.start(cfg)
	}
	older()
	r.holds(d)

	r.link.away()
	older()
	r.mount(d, "before")
	r.link.back()
	await(t, func() bool {
		r.clock.Advance(r.Limits.Retry)
		return r.pools.Free(d.Pool) != nil
	})
	if _, err := r.Mount(t.Context(), "db", "after"); !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), wayOut) {
		t.Errorf("one more use: %v", err)
	}
	r.want(d, "before")
	if err := r.Unmount(t.Context(), "db", "before"); err != nil {
		t.Error(err)
	}
	r.want(d)
	r.holds(d)

	r.link.away() // it is on its own disk now
	r.restart()
	if _, err := r.Mount(t.Context(), "db", "alone"); !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), wayOut) {
		t.Errorf("with control away: %v", err)
	}
	r.link.back()
}

// The newer disk ends it, without a restart.
func TestNewerDiskIsBack(t *testing.T) {
	r := newRig(t)
	r.at(1)
	d := r.volume("db")
	older := r.saved("pool")
	r.restart()
	r.at(2)
	newer := r.saved("pool")
	older()
	await(t, func() bool {
		r.clock.Advance(r.Limits.Heartbeat)
		return r.pools.Free(d.Pool) != nil
	})
	r.holds(d)
	newer()
	await(t, func() bool {
		r.clock.Advance(r.Limits.Heartbeat)
		return r.pools.Free(d.Pool) == nil
	})
	r.mount(d, "id")
	if err := r.Unmount(t.Context(), "db", "id"); err != nil {
		t.Error(err)
	}
}

// What is no put-back holds nothing: restarts, a crash between the raising and the telling,
// a store that is older, new or of an older version, a control that keeps no generations, a
// root that was lost.
func TestNoFalseAlarm(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	serves := func(what string) {
		t.Helper()
		if err := r.pools.Free(d.Pool); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		r.mount(d, "id")
		if err := r.Unmount(t.Context(), "db", "id"); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	r.at(1)
	raised := func(to uint64) {
		t.Helper()
		if err := r.pools.All()[0].Storage.Raise(to); err != nil {
			t.Fatal(err)
		}
	}
	cfg := r.config
	r.close()
	raised(2) // and the agent was killed before it told anybody
	r.start(cfg)
	serves("not told")
	r.at(3)
	r.link.setOld(true)
	for range 2 {
		r.restart()
		serves("control keeps none")
		if g, err := r.pools.All()[0].Storage.Generation(); g != 3 || err != nil {
			t.Errorf("generation %d, %v", g, err)
		}
	}
	r.link.setOld(false)
	r.restart()
	serves("control is upgraded")
	r.at(4)

	r.loseStore(true)
	if _, err := r.RebuildStore(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	serves("another store and root")
	r.restart()
	serves("another store and root, again")
}

// A pool that is adopted in an older state than it is known to have been in is held before
// anything of it is on record, and comes back whole once that is accepted.
func TestAdoptedPoolThatWasPutBack(t *testing.T) {
	r, ctx := newRig(t), t.Context()
	d, putBack := r.raised()
	cfg := r.config
	r.close()
	putBack()
	moved := filepath.Join(r.root, "moved")
	if err := os.Rename(filepath.Join(r.root, "pool"), moved); err != nil {
		t.Fatal(err)
	}
	r.start(cfg)
	if _, _, err := r.AdoptPool(ctx, moved); !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), wayOut) || !strings.Contains(err.Error(), "drover store rebuild") {
		t.Fatalf("adopt: %v", err)
	}
	r.holds(d)
	if _, err := r.AcceptPool(ctx, "default", api.AcceptPool{Confirmed: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.RebuildStore(ctx, false); err != nil {
		t.Fatal(err)
	}
	if got := r.reads(d); got != "old" {
		t.Errorf("it has %q", got)
	}
}
