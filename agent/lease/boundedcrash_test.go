package lease_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/test/require"
)

// An agent crashes before and after every act of a mount and of an unmount. After its restart there are two possible
// results: the use is recorded, the volume is mounted and the guard has it; or nobody uses it, it is not mounted, and
// the guard has forgotten it. At no act is a volume mounted that the guard does not have, and no mount is
// acknowledged before the guard has checked it.
func TestI1MountCrashesAtEveryAct(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := g.NewReplicated("db")
	path := g.A.MountPath(d.ID)
	look := func(act string) {
		mounted, err := host.IsMountPoint(path)
		_, there := g.GuardA.Entry(d.ID)
		if err != nil || mounted && !there {
			t.Errorf("at %s: mounted without the guard, %v", act, err)
		}
	}
	for _, what := range []string{"mount", "unmount"} {
		for _, late := range []bool{false, true} {
			for n := 0; ; n++ {
				if what == "unmount" {
					g.A.MustMount("db@auto", "user")
				}
				gone := g.A.Fuse.Set(n, late, look)
				done := make(chan error, 1)
				go func() {
					if what == "unmount" {
						done <- g.A.Unmount(t.Context(), "db@auto", "user")
						return
					}
					_, err := g.A.Mount(t.Context(), "db@auto", "user")
					done <- err
				}()
				err := <-done
				cut := g.A.Fuse.Blown()
				if !cut {
					g.A.Fuse.Mend()
				} else {
					<-gone
					g.A.Restart()
				}
				at := fmt.Sprintf("%s, late %t, cut at act %d (%t) of %v: %v", what, late, n, cut, g.A.Fuse.Seen(), err)
				if err == nil && what == "mount" && len(g.A.Uses.Get(d.ID).IDs) != 1 {
					t.Fatalf("%s: the acknowledged mount is not recorded", at)
				}
				g.AwaitConsistent(d, at)
				if len(g.A.Uses.Get(d.ID).IDs) > 0 {
					g.A.MustUnmount("db@auto", "user")
				}
				g.AwaitConsistent(d, at)
				if !cut {
					t.Log(at)
					break
				}
			}
		}
	}
}

// A deadline passes after the mount and before its reply: the mount is not reported as successful, and nothing stays
// that hinders the guard.
func TestI1DeadlinePassesDuringMount(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := g.NewReplicated("db")
	checks := 0
	g.A.Fuse.Set(-1, false, func(act string) {
		if act != "guard check" {
			return
		}
		if checks++; checks == 1 {
			g.LinkA.Cut()
			g.Network.SetCut(true)
			g.GuardA.AwaitFenced(d.ID)
		}
	})
	if path, err := g.A.Mount(t.Context(), "db@auto", "user"); !errors.Is(err, dataset.ErrStale) {
		t.Errorf("mounted at %s: %v", path, err)
	}
	if r := g.A.Uses.Get(d.ID); len(r.IDs) > 0 || checks == 0 {
		t.Errorf("it is used by %+v after %d checks", r.IDs, checks)
	}
	g.A.Fuse.Mend()
	g.LinkA.Mend()
	g.Network.SetCut(false)
	agenttest.Await(t, func() bool { // it is unmounted without a request, once it is thawed
		e, there := g.GuardA.Entry(d.ID)
		return !there || e.State == guard.StateArmed
	})
	g.A.MustMount("db@auto", "user")
	g.AwaitConsistent(d, "mounted")
	g.A.MustUnmount("db@auto", "user")
	g.AwaitConsistent(d, "unmounted")
}

// If the guard has lost its records, mounted volumes are registered with it again. If the node is cut off from
// everyone who could extend the lease, they are fenced, even if their pool is quarantined or offline.
func TestI1DatasetsUnknownToGuardAreRegistered(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := g.NewReplicated("db")
	g.A.MustMount("db@auto", "user")
	forget := func() {
		t.Helper()
		g.GuardA.Stop()
		for _, dir := range []string{g.GuardA.Run, g.GuardA.Root} {
			require.NoError(t, errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)))
		}
		g.GuardA.Start()
	}
	known := func() bool { e, there := g.GuardA.Entry(d.ID); return there && e.State == guard.StateArmed }
	p := g.A.Pools.All()[0]
	require.NoError(t, g.A.Pools.RecordGeneration(t.Context(), p.ID, 1<<40))
	g.A.Stop()
	forget()
	g.A.Start()
	agenttest.Await(t, known)
	if g.A.Pools.CheckQuarantine(p.ID) == nil {
		t.Error("its pool is not held")
	}
	g.LinkA.Cut()
	g.Network.SetCut(true)
	g.GuardA.AwaitFenced(d.ID)
	g.A.Stop()
	_, err := g.GuardA.Thaw(t.Context(), d.ID, d.Epoch, clock.Boottime()+time.Minute)
	require.NoError(t, err)
	forget()
	require.NoError(t, os.Rename(p.Path, p.Path+".away"))
	g.A.Start()
	if e := g.GuardA.AwaitFenced(d.ID); e.Fence == nil || e.Filesystem.Root == "" || !e.Own {
		t.Errorf("%+v", e)
	}
	if _, err := g.A.Pools.Get(p.ID); err == nil || g.A.Pools.CheckQuarantine(p.ID) != nil {
		t.Errorf("its pool is not offline: %v", err)
	}
	require.NoError(t, os.Rename(p.Path+".away", p.Path))
	g.LinkA.Mend()
	g.Network.SetCut(false)
	agenttest.Await(t, known)
	g.A.MustUnmount("db@auto", "user")
	g.AwaitConsistent(d, "unmounted")
}

// A stopping agent that waits for its work renews its leases and feeds the guard until the work has ended: a slow
// stop does not cause a fence.
func TestSlowStopFencesNothing(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := g.NewReplicated("db")
	g.A.MustMount("db@auto", "user")
	release, closed := make(chan struct{}), make(chan struct{})
	g.A.Jobs.Start("slow", func(context.Context, *host.Job) error { <-release; return nil })
	was, _ := g.GuardA.Entry(d.ID)
	go func() { g.A.Stop(); close(closed) }()
	agenttest.Await(t, func() bool {
		e, _ := g.GuardA.Entry(d.ID)
		return e.Deadline > was.Deadline+agenttest.BoundSession || e.State != guard.StateArmed
	})
	e, _ := g.GuardA.Entry(d.ID)
	close(release)
	<-closed
	if e.State != guard.StateArmed {
		t.Errorf("%+v", e)
	}
	g.A.Start()
	agenttest.Await(t, func() bool { e, _ := g.GuardA.Entry(d.ID); return e.State == guard.StateArmed })
	g.A.MustUnmount("db@auto", "user")
}
