package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
)

// An agent dies at every act of a mount and of an unmount, before it and after. Started
// again it comes to one of two ends: the use is on record, the volume mounted, and the
// guard has it; or nobody uses it, it is not mounted, and the guard has forgotten it. At no
// act is something mounted that the guard does not have, nor acknowledged before that was
// checked.
func TestI1BoundedMountCutShort(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	d := g.replicated("db")
	path := g.a.MountPath(d.ID)
	look := func(act string) {
		mounted, err := host.IsMountPoint(path)
		_, there := g.wa.entry(d.ID)
		if err != nil || mounted && !there {
			t.Errorf("at %s: mounted without the guard, %v", act, err)
		}
	}
	for _, what := range []string{"mount", "unmount"} {
		for _, late := range []bool{false, true} {
			for n := 0; ; n++ {
				if what == "unmount" {
					g.a.mounts("db@auto", "user")
				}
				gone := g.a.fuse.set(n, late, look)
				done := make(chan error, 1)
				go func() {
					if what == "unmount" {
						done <- g.a.Unmount(t.Context(), "db@auto", "user")
						return
					}
					_, err := g.a.Mount(t.Context(), "db@auto", "user")
					done <- err
				}()
				err := <-done
				cut := g.a.fuse.blown()
				if !cut {
					g.a.fuse.mend()
				} else {
					<-gone
					g.a.again()
				}
				at := fmt.Sprintf("%s, late %t, cut at act %d (%t) of %v: %v", what, late, n, cut, g.a.fuse.seen(), err)
				if err == nil && what == "mount" && len(g.a.uses.Get(d.ID).IDs) != 1 {
					t.Fatalf("%s: what was acknowledged is not on record", at)
				}
				g.agrees(d, at)
				if len(g.a.uses.Get(d.ID).IDs) > 0 {
					g.a.unmounts("db@auto", "user")
				}
				g.agrees(d, at)
				if !cut {
					t.Log(at)
					break
				}
			}
		}
	}
}

// agrees waits until a volume is mounted if it is used, and the guard has it if it is.
func (g *guarded) agrees(d dataset.Dataset, at string) {
	g.Helper()
	ok := func() bool {
		used := len(g.a.uses.Get(d.ID).IDs) > 0
		mounted, err := host.IsMountPoint(g.a.MountPath(d.ID))
		e, there := g.wa.entry(d.ID)
		return err == nil && mounted == used && there == used && (!there || e.State == guard.StateArmed)
	}
	for until := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			e, there := g.wa.entry(d.ID)
			mounted, err := host.IsMountPoint(g.a.MountPath(d.ID))
			g.Fatalf("%s: used by %v, mounted: %t, %v; the guard: %t, %+v", at, g.a.uses.Get(d.ID).IDs, mounted, err, there, e)
		}
	}
}

// A deadline that passes after the mount and before its reply: nobody is told that it is
// mounted, and nobody is left in the guard's way.
func TestI1DeadlinePassesWhileItIsMounted(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	d := g.replicated("db")
	checks := 0
	g.a.fuse.set(-1, false, func(act string) {
		if act != "guard check" {
			return
		}
		if checks++; checks == 1 {
			g.la.away()
			g.wires.setCut(true)
			g.wa.fences(d.ID)
		}
	})
	if path, err := g.a.Mount(t.Context(), "db@auto", "user"); !errors.Is(err, dataset.ErrStale) {
		t.Errorf("mounted at %s: %v", path, err)
	}
	if r := g.a.uses.Get(d.ID); len(r.IDs) > 0 || checks == 0 {
		t.Errorf("it is used by %+v after %d checks", r.IDs, checks)
	}
	g.a.fuse.mend()
	g.la.back()
	g.wires.setCut(false)
	await(t, func() bool { // and goes by itself, once it is thawed
		e, there := g.wa.entry(d.ID)
		return !there || e.State == guard.StateArmed
	})
	g.a.mounts("db@auto", "user")
	g.agrees(d, "mounted")
	g.a.unmounts("db@auto", "user")
	g.agrees(d, "unmounted")
}

// What is mounted and unknown to the guard, whose table was lost, is known to it again; cut
// off from all who could vouch for it, it is fenced: though its pool is held, or offline.
func TestI1GuardForgot(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	d := g.replicated("db")
	g.a.mounts("db@auto", "user")
	forget := func() {
		t.Helper()
		g.wa.down()
		for _, dir := range []string{g.wa.run, g.wa.root} {
			if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
				t.Fatal(err)
			}
		}
		g.wa.up()
	}
	known := func() bool { e, there := g.wa.entry(d.ID); return there && e.State == guard.StateArmed }
	op := g.a.pools.All()[0]
	if err := g.a.pools.WasOf(t.Context(), op.ID, 1<<40); err != nil {
		t.Fatal(err)
	}
	g.a.down()
	forget()
	g.a.up()
	await(t, known)
	if g.a.pools.Free(op.ID) == nil {
		t.Error("its pool is not held")
	}
	g.la.away()
	g.wires.setCut(true)
	g.wa.fences(d.ID)
	g.a.down()
	if _, err := g.wa.Thaw(t.Context(), d.ID, d.Epoch, clock.Boottime()+time.Minute); err != nil {
		t.Fatal(err)
	}
	forget()
	if err := os.Rename(op.Path, op.Path+".away"); err != nil {
		t.Fatal(err)
	}
	g.a.up()
	if e := g.wa.fences(d.ID); e.Fence == nil || e.Filesystem.Root == "" || !e.Own {
		t.Errorf("%+v", e)
	}
	if _, err := g.a.pools.Get(op.ID); err == nil || g.a.pools.Free(op.ID) != nil {
		t.Errorf("its pool is not offline: %v", err)
	}
	if err := os.Rename(op.Path+".away", op.Path); err != nil {
		t.Fatal(err)
	}
	g.la.back()
	g.wires.setCut(false)
	await(t, known)
	g.a.unmounts("db@auto", "user")
	g.agrees(d, "unmounted")
}

// An agent that stops and waits for its work renews and feeds until that has ended: a slow
// stop fences nothing.
func TestBoundedStop(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	d := g.replicated("db")
	g.a.mounts("db@auto", "user")
	release, closed := make(chan struct{}), make(chan struct{})
	g.a.Jobs.Start("slow", func(context.Context, *jobs.Job) error { <-release; return nil })
	was, _ := g.wa.entry(d.ID)
	go func() { g.a.down(); close(closed) }()
	await(t, func() bool {
		e, _ := g.wa.entry(d.ID)
		return e.Deadline > was.Deadline+boundSession || e.State != guard.StateArmed
	})
	e, _ := g.wa.entry(d.ID)
	close(release)
	<-closed
	if e.State != guard.StateArmed {
		t.Errorf("%+v", e)
	}
	g.a.up()
	await(t, func() bool { e, _ := g.wa.entry(d.ID); return e.State == guard.StateArmed })
	g.a.unmounts("db@auto", "user")
}
