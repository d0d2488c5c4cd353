package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// many is a volume that both hosts of a flock may mount; its home is host a.
func many(t *testing.T) (*flock, dataset.Dataset) {
	t.Helper()
	f := newFlock(t, "nfs", "nfs")
	f.a.cfg.Limits.Lease, f.b.cfg.Limits.Lease = 300*time.Millisecond, 300*time.Millisecond
	f.a.again()
	f.b.again()
	return f, f.a.volume("db@many", nil)
}

func (h *flockHost) puts(path, text string) {
	h.f.Helper()
	if err := os.WriteFile(filepath.Join(path, "token"), []byte(text), 0o600); err != nil {
		h.f.Error(err)
	}
}

func (h *flockHost) sees(path, want string) {
	h.f.Helper()
	if got, err := os.ReadFile(filepath.Join(path, "token")); err != nil || string(got) != want {
		h.f.Errorf("%s sees %q, %v; want %q", h.NodeName, got, err, want)
	}
}

// guestsOf waits until those nodes, and no others, are on record as guests.
func (f *flock) guestsOf(volume string, want ...*flockHost) {
	f.Helper()
	until := time.Now().Add(20 * time.Second)
	for {
		v := f.record(volume)
		ok := len(v.Guests) == len(want)
		for _, h := range want {
			_, stays := v.Stay(h.Node())
			ok = ok && stays
		}
		if ok {
			return
		}
		if time.Now().After(until) {
			f.Fatalf("guests on record: %+v", v.Visits)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Two hosts have it mounted at once, and see what the other one writes; the home stays where it
// is, and the guest is on record from before its mount until after.
func TestAccessMany(t *testing.T) {
	f, d := many(t)
	here := f.a.mounts("db", "one")
	f.a.puts(here, "of a")
	there := f.b.mounts("db", "two")
	f.b.sees(there, "of a")
	f.b.puts(there, "of b")
	f.a.sees(here, "of b")
	if v := f.record("db"); v.Home != f.a.Node() || v.Epoch != d.Epoch || v.Move != uuid.Nil {
		t.Errorf("on record: %+v", v.Dataset)
	}
	f.guestsOf("db", f.b)
	f.b.mounts("db", "three")
	f.b.unmounts("db", "two")
	f.guestsOf("db", f.b)
	await(t, func() bool { v := f.record("db").Visits; return len(v) == 1 && v[0].Mounts == 1 })
	await(t, func() bool { // which node is called what is asked beside
		v, err := f.b.Get(t.Context(), "db")
		return err == nil && v.Mountpoint == there && v.Status["guest"] == "host-b" && v.Status["node"] == "host-a"
	})
	f.b.unmounts("db", "three")
	if v := f.record("db"); len(v.Guests) != 0 {
		t.Errorf("after the last unmount: %+v", v.Guests)
	}
	if _, err := os.Stat(filepath.Join(there, "token")); err == nil {
		t.Error("it is mounted still")
	}
	f.a.sees(here, "of b")
}

// What needs nobody else is refused by name while there is a guest, and not when it has gone.
func TestGuestsAreInTheWay(t *testing.T) {
	f, _ := many(t)
	f.a.writes("db", "token", "kept")
	path := f.b.mounts("db", "user")
	await(t, func() bool { v := f.record("db").Visits; return len(v) == 1 && v[0].Mounts == 1 })
	says := func(err error) bool {
		return errors.Is(err, dataset.ErrInUse) && strings.Contains(err.Error(), "in use on host-b (1 mount)")
	}
	for name, try := range map[string]func() error{
		"rm":     func() error { _, err := f.svc.Submit(t.Context(), rm("db")); return err },
		"export": func() error { _, err := f.a.Export(t.Context(), "db", "", io.Discard); return err },
		"clone":  func() error { return f.a.Create(t.Context(), "two", map[string]string{"from": "db"}) },
		"snapshot": func() error {
			out, err := f.svc.Submit(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db"})
			if err != nil {
				return err
			}
			return operation.Outcome(f.ended(*out.Operation))
		},
		"move": func() error {
			_, err := f.svc.Submit(t.Context(), api.Request{Kind: dataset.OpMove, Volume: "db", Node: "host-b"})
			return err
		},
	} {
		if err := try(); !says(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f.b.puts(path, "goes on")
	f.b.unmounts("db", "user")
	s := f.ended(*f.asks(api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "before"}).Operation)
	if s.State != dataset.OpDone {
		t.Fatalf("snapshot: %+v", s.Problem)
	}
	if got := f.b.reads("db", "token"); got != "goes on" { // once the home needs it alone no more
		t.Errorf("it holds %q", got)
	}
	path = f.b.mounts("db", "user")
	restore := f.ended(*f.asks(api.Request{Kind: dataset.OpRestore, Volume: "db", Snapshot: "before"}).Operation)
	if err := operation.Outcome(restore); !says(err) && !strings.Contains(err.Error(), "in use on host-b") {
		t.Errorf("restore: %v", err)
	}
	f.b.sees(path, "goes on")
	f.b.unmounts("db", "user")
	if err := operation.Outcome(f.ended(*f.asks(rm("db")).Operation)); err != nil {
		t.Errorf("rm: %v", err)
	}
}

func rm(volume string) api.Request { return api.Request{Kind: dataset.OpDelete, Volume: volume} }

func (f *flock) asks(req api.Request) api.Outcome {
	f.Helper()
	out, err := f.svc.Submit(f.Context(), req)
	if err != nil {
		f.Fatal(err)
	}
	return out
}

// A guest that dies at any act of a mount, or of the unmount that follows, leaves a stay for as
// long as it has it mounted, and none when it is back and has not.
func TestGuestCutShort(t *testing.T) {
	f, d := many(t)
	f.a.writes("db", "token", "kept")
	path := f.b.MountPath(d.ID)
	for _, late := range []bool{true, false} {
		for n := 0; ; n++ {
			f.b.fuse.set(n, late, func(act string) {
				mounted, err := host.IsMountPoint(path)
				if _, stays := f.record("db").Stay(f.b.Node()); err != nil || mounted && !stays {
					t.Errorf("late %t, act %d: mounted, and not on record, at %s: %v", late, n, act, err)
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			_, err := f.b.Mount(ctx, "db", "user")
			mounted := err == nil
			if err == nil {
				err = f.b.Unmount(ctx, "db", "user")
			}
			cancel()
			what := f.b.fuse.seen()
			cut := f.b.fuse.blown()
			f.b.again()
			if v := f.record("db"); v.Home != f.a.Node() {
				t.Fatalf("on record: %+v", v.Dataset)
			}
			if len(f.b.uses.Get(d.ID).IDs) > 0 { // acknowledged, or about to be
				f.guestsOf("db", f.b)
				f.b.unmounts("db", "user")
			}
			f.guestsOf("db")
			if is, err := host.IsMountPoint(path); is || err != nil {
				t.Fatalf("late %t, act %d of %v: mounted: %t, %v", late, n, what, is, err)
			}
			if !cut {
				if err != nil || !mounted {
					t.Fatalf("uncut: %v", err)
				}
				t.Logf("late %t: %v", late, what)
				break
			}
		}
	}
	if got := f.b.reads("db", "token"); got != "kept" {
		t.Errorf("it holds %q", got)
	}
}

// With control away who has it mounted goes on, a further container too; nobody begins. What
// ends meanwhile is told once control is back.
func TestGuestWithoutControl(t *testing.T) {
	f, d := many(t)
	path := f.b.mounts("db", "one")
	link := f.b.cfg.Control
	f.b.down()
	f.b.cfg.Control = away{link}
	f.b.up()
	if again := f.b.mounts("db", "two"); again != path {
		t.Errorf("mounted at %s", again)
	}
	f.b.puts(path, "goes on")
	f.b.unmounts("db", "two")
	f.b.unmounts("db", "one")
	if _, err := f.b.Mount(t.Context(), "db", "three"); !errors.Is(err, dataset.ErrUnavailable) {
		t.Errorf("mounted, though nobody knows: %v", err)
	}
	if v := f.record("db"); len(v.Guests) != 1 {
		t.Errorf("ended without a word: %+v", v.Guests)
	}
	f.b.down()
	f.b.cfg.Control = link
	f.b.up()
	f.guestsOf("db")
	if is, err := host.IsMountPoint(f.b.MountPath(d.ID)); is || err != nil {
		t.Errorf("mounted: %t, %v", is, err)
	}
}

// Without its home guests go on, and it goes on at one of them, whose mounts stay; the home that
// comes back is a guest for as long as it has it mounted.
func TestGuestBecomesHome(t *testing.T) {
	f, d := many(t)
	here, there := f.a.mounts("db", "one"), f.b.mounts("db", "two")
	f.a.down()
	f.b.puts(there, "of b")
	f.b.mounts("db", "three")
	op := f.ended(*f.asks(api.Request{Kind: dataset.OpMove, Volume: "db", Node: "host-b", Force: true, Fenced: "host-a"}).Operation)
	if op.State != dataset.OpDone {
		t.Fatalf("%+v", op.Problem)
	}
	f.b.sees(there, "of b")
	f.guestsOf("db", f.a)
	f.a.up()
	f.a.settled(d.ID)
	f.guestsOf("db", f.a)
	f.a.puts(here, "of a") // what still runs there was not shot
	f.b.sees(there, "of a")
	if err := f.b.Remove(t.Context(), "db"); !errors.Is(err, dataset.ErrInUse) {
		t.Errorf("removed: %v", err)
	}
	f.b.unmounts("db", "two")
	f.b.unmounts("db", "three")
	if err := f.b.Remove(t.Context(), "db"); !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), "host-a") {
		t.Errorf("removed: %v", err)
	}
	f.a.unmounts("db", "one")
	f.guestsOf("db")
	if got := f.a.reads("db", "token"); got != "of a" { // as a guest now
		t.Errorf("it holds %q", got)
	}
	f.guestsOf("db")
	if err := operation.Outcome(f.ended(*f.asks(rm("db")).Operation)); err != nil {
		t.Errorf("rm: %v", err)
	}
}

// A mount of which control knows nothing any more is told anew, and one of a volume that is gone
// is named by doctor.
func TestGuestThatWasForgotten(t *testing.T) {
	f, d := many(t)
	f.b.mounts("db", "user")
	g, _ := f.b.guestTable.Get(d.ID)
	f.b.down()
	forget := func(d dataset.Dataset) {
		t.Helper()
		over := api.Stay{Incarnation: f.b.Incarnation, Dataset: d.ID, ID: g.Stay, Over: true}
		if _, err := f.svc.Guest(t.Context(), f.b.Node(), over); err != nil {
			t.Fatal(err)
		}
	}
	forget(d)
	f.guestsOf("db")
	f.b.up()
	f.guestsOf("db", f.b)
	f.b.down()
	forget(d)
	if err := operation.Outcome(f.ended(*f.asks(rm("db")).Operation)); err != nil {
		t.Fatal(err)
	}
	f.b.up()
	await(t, func() bool {
		list, err := f.b.Doctor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, is := range list {
			if is.Subject == "volume db" && strings.Contains(is.Text, "is mounted here beside its home, and control has it not so on record") {
				return true
			}
		}
		return false
	})
	// Nobody new goes on with it there, nor takes it for a volume of its name.
	if path, err := f.b.Mount(t.Context(), "db", "another"); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("mounted at %s: %v", path, err)
	}
	if _, err := f.b.mounter.Use(t.Context(), d, dataset.ParseReference("db"), "another"); !errors.Is(err, dataset.ErrConflict) {
		t.Errorf("used: %v", err)
	}
	now := f.a.volume("db@many", nil)
	if path := f.b.mounts("db", "another"); path != f.b.MountPath(now.ID) {
		t.Errorf("the new volume of that name is mounted at %s", path)
	}
	f.b.unmounts("db", "another")
	f.b.unmounts("db", "user")
	if is, err := host.IsMountPoint(f.b.MountPath(d.ID)); is || err != nil {
		t.Errorf("mounted: %t, %v", is, err)
	}
}

// A guest whose agent has lost its state stays for as long as somebody may use the volume there,
// whoever else comes and goes.
func TestGuestWhoseStateWasLost(t *testing.T) {
	f, d := many(t)
	path := f.b.mounts("db", "user")
	f.b.down()
	list, err := f.b.own.List(t.Context(), "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	var drop []store.Write
	for _, e := range list {
		drop = append(drop, store.Write{Key: e.Key, Delete: true})
	}
	if _, err := f.b.own.Txn(t.Context(), nil, drop); err != nil {
		t.Fatal(err)
	}
	f.b.up()
	await(t, func() bool { return f.b.uses.Get(d.ID).IDs[mounting.UnknownUse].Count == 1 })
	f.b.mounts("db", "next")
	f.b.unmounts("db", "next")
	f.guestsOf("db", f.b)
	if is, err := host.IsMountPoint(path); !is || err != nil {
		t.Errorf("mounted: %t, %v", is, err)
	}
	f.b.verifier.Began -= mounting.InheritedGrace
	if err := f.b.verifier.DropUnverified(t.Context(), d, f.b.verifier.Unverified(d.ID), 0); err != nil { // once nobody has it
		t.Error(err)
	}
	f.guestsOf("db")
}

// One host at a time is what any other volume of the same share is for.
func TestI1BesideAccessMany(t *testing.T) {
	f, _ := many(t)
	f.a.volume("one", nil)
	f.a.mounts("one", "user")
	f.b.mounts("db", "user")
	if _, err := f.b.Mount(t.Context(), "one", "user"); !errors.Is(err, dataset.ErrInUse) {
		t.Errorf("mounted twice: %v", err)
	}
}

// A home that needs a dataset alone for two things at once lets others in after both, and asks
// for it once.
func TestAloneForSeveral(t *testing.T) {
	f, d := many(t)
	one, err := f.a.Agent.reservations.Reserve(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	stay := f.record("db").Guests
	two, err := f.a.Agent.reservations.Reserve(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	one()
	if _, err := f.b.Mount(t.Context(), "db", "user"); !errors.Is(err, dataset.ErrPending) {
		t.Errorf("mounted while it is needed alone: %v", err)
	}
	if now := f.record("db").Guests; len(now) != 1 || len(stay) != 1 || now[0].ID != stay[0].ID {
		t.Errorf("on record: %+v, then %+v", stay, now)
	}
	two()
	f.b.mounts("db", "user")
	f.b.unmounts("db", "user")
}
