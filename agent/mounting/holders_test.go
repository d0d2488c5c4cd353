package mounting_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/plugin"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// TestI1CpBeforeFailover: docker cp into a container that outlived its engine does not remove the volume from the
// guard. So if the node is cut off, the container is stopped before another node continues.
func TestI1CpBeforeFailover(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := g.NewReplicated("db")
	path := g.A.MustMount("db@auto", "one")
	stop := agenttest.StartContainer(t, path)
	defer stop()
	g.A.Activated(t.Context())
	g.A.MustMount("db@auto", "one")
	g.A.MustUnmount("db@auto", "one")
	if u := g.A.Uses.Get(d.ID).IDs["one"]; !u.Ended {
		t.Errorf("%+v", u)
	}
	agenttest.Await(t, func() bool { return len(g.A.Jobs.Running()) == 0 })
	if e, there := g.GuardA.Entry(d.ID); !there || e.State != guard.StateArmed {
		t.Fatalf("the guard has %t, %+v", there, e)
	}
	g.LinkA.Cut()
	g.Network.SetCut(true)
	if e := g.GuardA.AwaitFenced(d.ID); e.Fence == nil {
		t.Errorf("%+v", e)
	}
	if agenttest.CanWrite(t, path, time.Second) {
		t.Error("it can be written to")
	}
	g.LinkA.Mend()
	g.Network.SetCut(false)
	agenttest.Await(t, func() bool { e, _ := g.GuardA.Entry(d.ID); return e.State == guard.StateArmed })
	stop()
	g.A.MustUnmount("db@auto", "one")
	g.AwaitConsistent(d, "the container has ended")
}

// TestI1GuardKeepsHeldVolume: a volume whose uses have all ended stays with the guard while a process has it mounted
// in another namespace, or has a file of it open, also across a restart of the agent. It is not removed either.
func TestI1GuardKeepsHeldVolume(t *testing.T) {
	for name, holder := range agenttest.Holders {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testGuardKeeps(t, holder)
		})
	}
}

func testGuardKeeps(t *testing.T, holder func(*testing.T, string) func()) {
	g := agenttest.NewBounded(t)
	d := g.NewReplicated("db")
	stop := holder(t, g.A.MustMount("db@auto", "one"))
	defer stop()
	g.A.MustUnmount("db@auto", "one")
	held := func(at string) {
		t.Helper()
		assert.ErrorIsf(t, g.A.Remove(t.Context(), "db@auto"), dataset.ErrInUse, "%s: removed", at)
		if e, there := g.GuardA.Entry(d.ID); !there || e.State != guard.StateArmed {
			t.Fatalf("%s: the guard has %t, %+v", at, there, e)
		}
	}
	held("unmounted")
	g.A.Restart()
	held("restarted")
	stop()
	g.AwaitConsistent(d, "the process has ended")
	assert.NoError(t, g.A.Remove(t.Context(), "db@auto"))
}

// TestI11HeldWithoutUse: a volume that is mounted and held without a recorded use is not unmounted, restored, removed
// or destroyed.
func TestI11HeldWithoutUse(t *testing.T) {
	for name, holder := range agenttest.Holders {
		t.Run(name, func(t *testing.T) { testHeldWithoutUse(t, holder) })
	}
}

func testHeldWithoutUse(t *testing.T, holder func(*testing.T, string) func()) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MountDataset(d, "one")
	path := r.MountPath(d.ID)
	stop := holder(t, path)
	rec := r.Uses.Get(d.ID)
	clear(rec.IDs)
	require.NoError(t, r.Uses.Save(t.Context(), d, 0, rec, nil))
	r.Uses.MarkIdle(d.ID)
	work := map[string]func() error{
		"unmount": func() error { return r.Unmounter.IfUnused(t.Context(), d, r.Unmounter.UnmountUnused) },
		"restore": func() error { return r.Verifier.EnsureUnused(t.Context(), d, "restore") },
		"remove":  func() error { return r.Remove(t.Context(), "db") },
		"give up": func() error {
			if list, err := r.CheckRelinquishable(t.Context(), d); err != nil || len(list) != 1 {
				t.Errorf("held by %v, %v", list, err)
			}
			return dataset.ErrInUse
		},
	}
	for name, do := range work {
		assert.ErrorIsf(t, do(), dataset.ErrInUse, "%s", name)
	}
	r.Advance(2 * mounting.IdleLimit)
	r.Unmounter.UnmountIdle()
	r.Restart()
	if mounted, err := host.IsMountPoint(path); !mounted || err != nil {
		t.Errorf("mounted: %t, %v", mounted, err)
	}
	stop()
	assert.NoError(t, r.Remove(t.Context(), "db"))
}

// TestI11MountOnTheHost: a second mount on the host is a use, whatever its path. If a container shares its mounts
// with the host, the container chooses the path. A copy of Drover's mount, which every recursive bind of the host
// makes, is not a use.
func TestI11MountOnTheHost(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MountDataset(d, "one")
	path, dir := r.MountPath(d.ID), t.TempDir()
	same := filepath.Join(dir, strings.TrimPrefix(path, r.Root))
	require.NoError(t, os.MkdirAll(same, 0o700))
	for name, c := range map[string]struct {
		from, to, flag string
		holders        int
	}{
		"a volume, on a path that ends like Drover's": {path, same, "--bind", 1},
		"a copy of all mounts":                        {r.Root, dir, "--rbind", 0},
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
			look, err := r.Holders.ScanMounts()
			require.NoError(t, err)
			if list := r.Holders.Describe(t.Context(), look, d); len(list) != c.holders {
				t.Errorf("%v", list)
			}
		})
	}
	unmount(r, d, "one")
}

// TestI11FailedLookAtFiles: a dataset is not unmounted, restored, removed or moved if it cannot be determined whether
// a process has a file of the dataset open.
func TestI11FailedLookAtFiles(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MountDataset(d, "one")
	rec := r.Uses.Get(d.ID)
	clear(rec.IDs)
	require.NoError(t, r.Uses.Save(t.Context(), d, 0, rec, nil))
	open := r.Holders.Files
	r.Holders.Files = func(context.Context, []mount.Filesystem) (*inuse.Files, error) { return nil, errors.New("no /proc") }
	for name, do := range map[string]func() error{
		"unmount": func() error { return r.Unmounter.IfUnused(t.Context(), d, r.Unmounter.UnmountUnused) },
		"restore": func() error { return r.Verifier.EnsureUnused(t.Context(), d, "restore") },
		"remove":  func() error { return r.Remove(t.Context(), "db") },
	} {
		if err := do(); !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), "no /proc") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if list, err := r.CheckRelinquishable(t.Context(), d); err != nil || len(list) != 1 {
		t.Errorf("held by %v, %v", list, err)
	}
	r.Holders.Files = open
	assert.NoError(t, r.Remove(t.Context(), "db"))
}

// TestI9NotMountedAndHeld: a use does not end because its mount point is not mounted any more.
func TestI9NotMountedAndHeld(t *testing.T) {
	f := &agenttest.Cluster{T: t}
	f.StartControl()
	f.A = f.AddHost("host-a", "loop")
	t.Cleanup(f.Close)
	f.A.Start()
	d := f.A.NewVolume("db", nil)
	path := f.A.MustMount("db", "one")
	stop := agenttest.StartContainer(t, path)
	if out, err := exec.Command("umount", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f.A.Activated(t.Context())
	look := func() {
		t.Helper()
		l, err := f.A.Holders.ScanMounts()
		require.NoError(t, err)
		f.A.Verifier.EndGrace()
		holders := len(f.A.Holders.Describe(t.Context(), l, d))
		assert.NoError(t, f.A.Verifier.DropUnverified(t.Context(), d, f.A.Verifier.Unverified(d.ID), holders))
	}
	look()
	if n := len(f.A.Uses.Get(d.ID).IDs); n != 1 {
		t.Errorf("%d uses, and a container has it", n)
	}
	stop()
	look()
	if n := len(f.A.Uses.Get(d.ID).IDs); n != 0 {
		t.Errorf("%d uses, and nobody has it", n)
	}
	_, err := os.Stat(filepath.Dir(path))
	assert.NoError(t, err)
}

// TestI11RefusalNamesEngineAndCommand: the refusal of a volume in use names the engine that holds it, and the command
// with which that engine shows its containers. If the engine is not known it names none.
func TestI11RefusalNamesEngineAndCommand(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	dockers := strings.Repeat("0123abcd", 8)
	const (
		docker = "docker ps -a --filter volume=db --filter volume=db@bronze"
		podman = "podman ps -a --filter volume=db"
		ends   = "podman volume unmount db ends a podman volume mount"

		stop      = " on node host-a (stop its containers first"
		ofPodman  = "podman (2f73349cfc46)" + stop + "; " + podman + " shows them; " + ends + ")"
		ofDocker  = stop + "; " + docker + " shows them)"
		ofNobody  = stop + ")"
		ofSeveral = "podman (2f73349cfc46), job-1, one" + stop + "; " + docker + " and " + podman + " show them; " + ends + ")"
	)
	if _, err := r.Mount(t.Context(), "db@bronze", "first"); err != nil {
		t.Fatal(err)
	}
	require.NoError(t, r.Unmount(t.Context(), "db@bronze", "first"))
	for _, c := range []struct {
		uses map[string]plugin.Tool
		want string
	}{
		{map[string]plugin.Tool{"": ""}, "(no ID)" + ofNobody},
		{map[string]plugin.Tool{"job-1": ""}, "job-1" + ofNobody},
		{map[string]plugin.Tool{"one": plugin.Docker}, "one" + ofDocker},
		{map[string]plugin.Tool{dockers: ""}, "0123abcd0123" + ofDocker},
		{map[string]plugin.Tool{mounting.PodmanID: plugin.Podman}, ofPodman},
		{map[string]plugin.Tool{mounting.PodmanID: ""}, ofPodman},
		{map[string]plugin.Tool{"one": plugin.Docker, mounting.PodmanID: plugin.Podman, "job-1": ""}, ofSeveral},
	} {
		for id, tool := range c.uses {
			_, err := r.Mount(plugin.WithTool(t.Context(), tool), "db", id)
			require.NoError(t, err)
		}
		end := agenttest.StartContainer(t, r.MountPath(d.ID))
		r.Restart() // the tool is recorded
		err := r.Remove(t.Context(), "db")
		end()
		want := "cannot remove volume db: it is mounted by " + c.want
		if !errors.Is(err, dataset.ErrInUse) || err.Error() != want {
			t.Errorf("%v:\n got %v\nwant %s", c.uses, err, want)
		}
		for _, m := range r.Engines.MountsOf(r.Uses.Get(d.ID)) {
			if want := (mounting.Use{Tool: c.uses[m.ID]}).ToolOf(m.ID); m.Engine != string(want) {
				t.Errorf("use %q is by %q, want %q", m.ID, m.Engine, want)
			}
		}
		for id := range c.uses {
			require.NoError(t, r.Unmount(t.Context(), "db", id))
		}
	}
}

// TestExamineNamesHolders: a process with an open file, and a loop device, are named with the file. Copies of the
// mount in other namespaces are not holders while the dataset is mounted.
func TestExamineNamesHolders(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MountDataset(d, "one")
	path := r.MountPath(d.ID)
	if got := r.Holders.Examine(t.Context(), d); !got.IsEmpty() || got.Node != r.NodeName {
		t.Errorf("unused: %+v", got)
	}
	f, err := os.Create(filepath.Join(path, "disk.img"))
	if err == nil {
		err = f.Truncate(1 << 20)
	}
	require.NoError(t, err)
	defer f.Close()
	sleep := exec.Command("sleep", "infinity")
	sleep.ExtraFiles = []*os.File{f}
	require.NoError(t, sleep.Start())
	got := r.Holders.Examine(t.Context(), d)
	if len(got.List) != 1 || len(got.Unexamined) != 0 || got.List[0].PID != sleep.Process.Pid ||
		got.List[0].User == "" || got.List[0].Path != "disk.img" {
		t.Errorf("open file: %+v", got)
	}
	_ = sleep.Process.Kill() // it runs, so this cannot fail
	_ = sleep.Wait()
	require.NoError(t, f.Close())
	dev, err := loopdev.Attach(t.Context(), f.Name(), loopdev.Options{})
	require.NoError(t, err)
	defer dev.Close()
	got = r.Holders.Examine(t.Context(), d)
	named := false
	for _, h := range got.List {
		named = named || h.Kind == dataset.HolderDevice && strings.HasPrefix(h.Device, "/dev/loop") && h.Path == "disk.img"
	}
	if !named {
		t.Errorf("loop device: %+v", got)
	}
	assert.NoError(t, dev.Close())
	r.MustUnmount("db", "one")
	if got := r.Holders.Examine(t.Context(), d); !got.IsEmpty() {
		t.Errorf("unmounted: %+v", got)
	}
}

// TestExamineNeverCallsUnexaminedUnused: each part of the host that cannot be examined is reported in a line.
func TestExamineNeverCallsUnexaminedUnused(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MountDataset(d, "one")
	defer r.MustUnmount("db", "one")
	files, foreign := r.Holders.Files, r.Holders.ReadForeign
	defer func() { r.Holders.Files, r.Holders.ReadForeign = files, foreign }()

	// On a host with very many open files the examination must end when its time is over.
	r.Holders.Files = func(ctx context.Context, _ []mount.Filesystem) (*inuse.Files, error) {
		if _, limited := ctx.Deadline(); !limited {
			return nil, errors.New("no time limit")
		}
		return nil, errors.New("too many files")
	}
	if got := r.Holders.Examine(t.Context(), d); got.IsEmpty() || !strings.Contains(got.Summary(), "too many files") {
		t.Errorf("files: %+v", got)
	}
	r.Holders.ReadForeign = func() (*mount.Foreign, error) { return nil, errors.New("no /proc") }
	if got := r.Holders.Examine(t.Context(), d); got.IsEmpty() || !strings.Contains(got.Summary(), "no /proc") {
		t.Errorf("mounts: %+v", got)
	}
}

// TestExamineUserFoundByPool: if a dataset is not mounted here, its pool finds the process that uses the dataset. The
// process is listed with the command that frees the dataset. The error of the pool ends with the command, too.
func TestExamineUserFoundByPool(t *testing.T) {
	for _, backend := range []string{"dir", "loop"} {
		t.Run(backend, func(t *testing.T) {
			f := &agenttest.Cluster{T: t}
			f.StartControl()
			f.A = f.AddHost("host-a", backend)
			t.Cleanup(f.Close)
			f.A.Start()
			d := f.A.NewVolume("db", nil)
			path, elsewhere := f.A.MustMount("db", "one"), t.TempDir()
			holder := exec.Command("sh", "-c", `mount --bind "$0" "$1"; umount "$0"; echo ready; exec sleep infinity`,
				path, elsewhere)
			holder.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
			out, err := holder.StdoutPipe()
			if err == nil {
				err = holder.Start()
			}
			if err == nil {
				_, err = out.Read(make([]byte, 6))
			}
			require.NoError(t, err)
			defer func() {
				_ = holder.Process.Kill() // it runs, so this cannot fail
				_ = holder.Wait()
			}()
			f.A.MustUnmount("db", "one") // the mount on the host stays, because the process uses it
			if out, err := exec.Command("umount", path).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			remedy := fmt.Sprintf("(to free it: umount -N %d %s)", holder.Process.Pid, elsewhere)
			got := f.A.Holders.Examine(t.Context(), d)
			if len(got.List) != 1 || len(got.Unexamined) != 0 || !strings.Contains(got.Summary(), remedy) {
				t.Errorf("%+v", got)
			}
			err = f.A.Holders.CheckPool(t.Context(), d)
			if !errors.Is(err, dataset.ErrInUse) || !strings.HasSuffix(err.Error(), remedy) {
				t.Errorf("%v, want %s", err, remedy)
			}
		})
	}
}
