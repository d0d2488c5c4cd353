package agent

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/mount"
)

// TestI1CpBeforeFailover: docker cp into a container that outlived its engine leaves the volume with the
// guard. So when the node is cut off the container is stopped before another node goes on.
func TestI1CpBeforeFailover(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	d := g.replicated("db")
	path := g.a.mounts("db@auto", "one")
	stop := container(t, path)
	defer stop()
	g.a.Activated(t.Context())
	g.a.mounts("db@auto", "one")
	g.a.unmounts("db@auto", "one")
	if u := g.a.uses.Get(d.ID).IDs["one"]; !u.Ended {
		t.Errorf("%+v", u)
	}
	await(t, func() bool { return len(g.a.Jobs.Running()) == 0 })
	if e, there := g.wa.entry(d.ID); !there || e.State != guard.StateArmed {
		t.Fatalf("the guard has %t, %+v", there, e)
	}
	g.la.away()
	g.wires.setCut(true)
	if e := g.wa.fences(d.ID); e.Fence == nil {
		t.Errorf("%+v", e)
	}
	if writable(t, path, time.Second) {
		t.Error("it can be written to")
	}
	g.la.back()
	g.wires.setCut(false)
	await(t, func() bool { e, _ := g.wa.entry(d.ID); return e.State == guard.StateArmed })
	stop()
	g.a.unmounts("db@auto", "one")
	g.agrees(d, "the container has ended")
}

// TestI1GuardKeepsHeldVolume: a volume whose uses have all ended stays with the guard while a process
// has it mounted in a namespace of its own, or has a file of it open, also over a restart of the agent; nor is
// it removed.
func TestI1GuardKeepsHeldVolume(t *testing.T) {
	for name, holder := range holders {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testGuardKeeps(t, holder)
		})
	}
}

func testGuardKeeps(t *testing.T, holder func(*testing.T, string) func()) {
	g := newGuarded(t)
	d := g.replicated("db")
	stop := holder(t, g.a.mounts("db@auto", "one"))
	defer stop()
	g.a.unmounts("db@auto", "one")
	held := func(at string) {
		t.Helper()
		if err := g.a.Remove(t.Context(), "db@auto"); !errors.Is(err, dataset.ErrInUse) {
			t.Errorf("%s: removed: %v", at, err)
		}
		if e, there := g.wa.entry(d.ID); !there || e.State != guard.StateArmed {
			t.Fatalf("%s: the guard has %t, %+v", at, there, e)
		}
	}
	held("unmounted")
	g.a.again()
	held("restarted")
	stop()
	g.agrees(d, "the process has ended")
	if err := g.a.Remove(t.Context(), "db@auto"); err != nil {
		t.Error(err)
	}
}

// TestI11HeldWithoutUse: what is mounted and held without a recorded use is not unmounted, restored,
// removed or destroyed.
func TestI11HeldWithoutUse(t *testing.T) {
	for name, holder := range holders {
		t.Run(name, func(t *testing.T) { testHeldWithoutUse(t, holder) })
	}
}

func testHeldWithoutUse(t *testing.T, holder func(*testing.T, string) func()) {
	r := newRig(t)
	d := r.volume("db")
	r.mount(d, "one")
	path := r.MountPath(d.ID)
	stop := holder(t, path)
	rec := r.uses.Get(d.ID)
	clear(rec.IDs)
	if err := r.uses.Save(t.Context(), d, rec, nil); err != nil {
		t.Fatal(err)
	}
	r.uses.MarkIdle(d.ID)
	work := map[string]func() error{
		"unmount": func() error { return r.unmounter.IfUnused(t.Context(), d, r.unmounter.UnmountUnheld) },
		"restore": func() error { return r.verifier.EnsureUnused(t.Context(), d, "restore") },
		"remove":  func() error { return r.Remove(t.Context(), "db") },
		"give up": func() error {
			if list, err := r.relinquisher.Holders(t.Context(), d); err != nil || len(list) != 1 {
				t.Errorf("held by %v, %v", list, err)
			}
			return dataset.ErrInUse
		},
	}
	for name, do := range work {
		if err := do(); !errors.Is(err, dataset.ErrInUse) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.after(2 * mounting.ForgottenAfter)
	r.unmounter.UnmountForgotten()
	r.restart()
	if mounted, err := host.IsMountPoint(path); !mounted || err != nil {
		t.Errorf("mounted: %t, %v", mounted, err)
	}
	stop()
	if err := r.Remove(t.Context(), "db"); err != nil {
		t.Error(err)
	}
}

// TestI11MountOnTheHost: a second mount on the host is a use, whatever its path. A container that shares its
// mounts with the host chooses the path. A copy of Drover's mount, which every recursive bind of the host makes,
// is none.
func TestI11MountOnTheHost(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	r.mount(d, "one")
	path, dir := r.MountPath(d.ID), t.TempDir()
	same := filepath.Join(dir, strings.TrimPrefix(path, r.root))
	if err := os.MkdirAll(same, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		from, to, flag string
		holders        int
	}{
		"a volume, on a path that ends like Drover's": {path, same, "--bind", 1},
		"a copy of all mounts":                        {r.root, dir, "--rbind", 0},
	} {
		t.Run(name, func(t *testing.T) {
			if out, err := exec.Command("mount", c.flag, c.from, c.to).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			defer func() {
				if out, err := exec.Command("umount", "-R", c.to).CombinedOutput(); err != nil {
					t.Errorf("%v: %s", err, out)
				}
			}()
			look, err := r.holders.LookAtMounts()
			if err != nil {
				t.Fatal(err)
			}
			if list := r.holders.Of(t.Context(), look, d); len(list) != c.holders {
				t.Errorf("%v", list)
			}
		})
	}
	r.unmount(d, "one")
}

// TestI11FailedLookAtFiles: if nobody can tell whether a process has a file of a dataset open, it is not
// unmounted, restored, removed or moved.
func TestI11FailedLookAtFiles(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	r.mount(d, "one")
	rec := r.uses.Get(d.ID)
	clear(rec.IDs)
	if err := r.uses.Save(t.Context(), d, rec, nil); err != nil {
		t.Fatal(err)
	}
	open := r.holders.Files
	r.holders.Files = func(context.Context, []mount.Filesystem) (*inuse.Files, error) { return nil, errors.New("no /proc") }
	for name, do := range map[string]func() error{
		"unmount": func() error { return r.unmounter.IfUnused(t.Context(), d, r.unmounter.UnmountUnheld) },
		"restore": func() error { return r.verifier.EnsureUnused(t.Context(), d, "restore") },
		"remove":  func() error { return r.Remove(t.Context(), "db") },
	} {
		if err := do(); !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), "no /proc") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if list, err := r.relinquisher.Holders(t.Context(), d); err != nil || len(list) != 1 {
		t.Errorf("held by %v, %v", list, err)
	}
	r.holders.Files = open
	if err := r.Remove(t.Context(), "db"); err != nil {
		t.Error(err)
	}
}

// TestI9NotMountedAndHeld: a use is not taken for ended because its mount point is not mounted any more.
func TestI9NotMountedAndHeld(t *testing.T) {
	f := &flock{T: t}
	f.serve()
	f.a = f.host("host-a", "loop")
	t.Cleanup(f.close)
	f.a.up()
	d := f.a.volume("db", nil)
	path := f.a.mounts("db", "one")
	stop := container(t, path)
	if out, err := exec.Command("umount", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f.a.Activated(t.Context())
	look := func() {
		t.Helper()
		l, err := f.a.holders.LookAtMounts()
		if err != nil {
			t.Fatal(err)
		}
		f.a.verifier.EndGrace()
		holders := len(f.a.holders.Of(t.Context(), l, d))
		if err := f.a.verifier.DropUnverified(t.Context(), d, f.a.verifier.Unverified(d.ID), holders); err != nil {
			t.Error(err)
		}
	}
	look()
	if n := len(f.a.uses.Get(d.ID).IDs); n != 1 {
		t.Errorf("%d uses, and a container has it", n)
	}
	stop()
	look()
	if n := len(f.a.uses.Get(d.ID).IDs); n != 0 {
		t.Errorf("%d uses, and nobody has it", n)
	}
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		t.Error(err)
	}
}
