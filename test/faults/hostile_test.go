package faults

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// What a container can put into its volume does no harm outside of the volume: symbolic links that lead out, device
// nodes, and setuid programs of root. Nor does a mount over it.
func TestC8HostileVolume(t *testing.T) {
	for _, pool := range []string{"xfs", "dir"} {
		t.Run(pool, func(t *testing.T) {
			w := newWorld(t, host.Options{Pool: pool})
			w.make(t, "evil", "plain", "evil")
			outside := filepath.Join(w.h.Dir, "outside")
			w.ok(t, os.Mkdir(outside, 0o755))
			w.ok(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("top secret"), 0o644))
			w.plug.Within(t, "evil", func(root string) {
				w.ok(t, os.Symlink(outside, filepath.Join(root, "out")))
				w.ok(t, os.Symlink(filepath.Join(outside, "secret"), filepath.Join(root, "secret")))
				w.ok(t, os.Symlink("/", filepath.Join(root, "slash")))
				w.ok(t, unix.Mknod(filepath.Join(root, "disk"), unix.S_IFBLK|0o666, int(unix.Mkdev(7, 0))))
				w.ok(t, os.WriteFile(filepath.Join(root, "id"), readFile(t, "/usr/bin/id"), 0o755))
				w.ok(t, unix.Chmod(filepath.Join(root, "id"), 0o4755))
				w.harmless(t, root)
			})
			if out := w.h.Must(t, "volume", "export", "evil"); strings.Contains(out, "top secret") {
				t.Error("an export contains data from outside of the volume")
			}
			w.snapshot(t, "evil", "first")
			w.ok(t, w.plug.Create("copy@snapshot-"+w.snapshotID(t, "evil", "first"), nil))
			w.plug.Within(t, "copy", func(root string) {
				if to, err := os.Readlink(filepath.Join(root, "out")); err != nil || to != outside {
					t.Errorf("a link of the clone: %q, %v", to, err)
				}
			})
			w.volumes["copy"] = "evil"
			w.drop(t, "copy")
			w.drop(t, "evil")
			if got := string(readFile(t, filepath.Join(outside, "secret"))); got != "top secret" {
				t.Errorf("outside: %q", got)
			}
			w.mountedOver(t)
			w.tidy(t)
		})
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return b
}

// harmless fails if a device node in a volume can be opened, or if anyone but root can read its contents.
func (w *world) harmless(t testing.TB, root string) {
	t.Helper()
	if f, err := os.Open(filepath.Join(root, "disk")); !errors.Is(err, unix.EACCES) {
		t.Errorf("a device node in a volume opens: %v", err)
		f.Close()
	}
	cmd := exec.Command(filepath.Join(root, "id"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("nobody runs a program of root's in a volume: %s", out)
	}
}

// mountedOver mounts something else over a volume, and inside of it. An unmount removes Drover's mount, or says that it
// cannot.
func (w *world) mountedOver(t *testing.T) {
	w.make(t, "base", "plain", "base")
	id := host.NewID()
	root, err := w.plug.Mount("base", id)
	w.ok(t, err)
	inside := filepath.Join(root, "inside")
	w.ok(t, os.Mkdir(inside, 0o755))
	w.ok(t, unix.Mount("over", inside, "tmpfs", 0, ""))
	w.says(t, w.plug.Unmount("base", id), "base", "still uses")
	w.h.Clean(t, "no recorded use")
	w.ok(t, unix.Unmount(inside, 0))
	w.holds(t, "base", "base") // the last one unmounts it
	if left := w.mounted(t); len(left) > 0 {
		t.Errorf("still mounted: %v", left)
	}

	root, err = w.plug.Mount("base", id)
	w.ok(t, err)
	w.ok(t, unix.Mount("over", root, "tmpfs", 0, ""))
	_ = w.plug.Unmount("base", id)
	_ = unix.Unmount(root, 0)
	w.h.Restart(t)
	w.holds(t, "base", "base")
}

const hungProfiles = `default: plain
profiles:
  plain: {pool: default, size: 320MiB, on_delete: purge}
  cold: {pool: cold, size: 320MiB, on_delete: purge}
  odd: {pool: default, size: 64MiB, filesystem: {type: ext4}, on_delete: purge}
`

// The disk of a pool accepts no writes, and a command waits for it in the kernel, where nothing can end the command.
// Requests that need the disk or the command end in time, all other volumes are served, and doctor names both. When
// the disk continues, so do they.
func TestC6(t *testing.T) {
	root, cold := filepath.Join(scratch.Mount(t, "xfs", 2<<30), "root"), scratch.Mount(t, "xfs", 1<<30)
	tools, gate := t.TempDir(), filepath.Join(t.TempDir(), "gate")
	mkfs, err := exec.LookPath("mkfs.ext4")
	require.NoError(t, err)
	script := fmt.Sprintf("#!/bin/sh\nif [ -e %s ]; then exec touch %s/file; fi\nexec %s \"$@\"\n", gate, cold, mkfs)
	require.NoError(t, os.WriteFile(filepath.Join(tools, "mkfs.ext4"), []byte(script), 0o755))
	w := newWorld(t, host.Options{
		Root: root, Profiles: hungProfiles, Env: []string{"PATH=" + tools + ":" + os.Getenv("PATH")},
		Config: fmt.Sprintf("pools: [{name: default, backend: loop, path: %s/pool}, {name: cold, backend: loop, path: %s/pool}]\n", root, cold),
	})
	w.make(t, "warm", "plain", "warm")
	w.make(t, "old", "cold", "old")
	w.ok(t, os.WriteFile(gate, nil, 0o600))
	thaw := freeze(t, cold)

	specs := map[string]string{"stuck": "cold", "tool": "odd"}
	answers := map[string]chan error{}
	for name, profile := range specs {
		answers[name] = make(chan error, 1)
		go func() { answers[name] <- w.plug.Create(name, map[string]string{"profile": profile}) }()
	}
	host.Await(t, "doctor names both", func() error {
		out := w.h.Exec(t, "doctor").Out
		if list, _ := w.h.Client(t).Doctor(t.Context()); !hung(list, "create of volume stuck", "drover's threads wait") || !hung(list, "create of volume tool", "touch (process ") {
			return errors.New(out)
		}
		return nil
	})
	began := time.Now()
	w.make(t, "other", "plain", "other")
	w.holds(t, "warm", "warm")
	w.snapshot(t, "warm", "meanwhile")
	w.ok(t, w.submit(t, api.Request{Kind: "resize", Volume: "warm", Size: "480MiB"}))
	w.listed(t)
	if all, err := w.plug.List(); err != nil || len(all) < 3 {
		t.Errorf("%v, %v", all, err)
	}
	if _, err := w.plug.Get("old"); err != nil {
		t.Error(err)
	}
	t.Logf("other volumes were served in %s", time.Since(began))
	w.ok(t, os.Remove(gate))
	thaw()
	for name, answer := range answers {
		if err := <-answer; err != nil { // its command may have failed
			t.Log(err)
		}
		host.Await(t, name+" is made", func() error { return w.plug.Create(name, map[string]string{"profile": specs[name]}) })
		w.write(t, name, name)
	}
	w.kept(t)
	w.h.Clean(t)
}

// hung reports whether a finding says that something hangs, and on what.
func hung(list []api.Finding, subject, on string) bool {
	for _, f := range list {
		if f.Subject == subject && f.Level == "warning" && strings.Contains(f.Text, on) {
			return true
		}
	}
	return false
}

// freeze blocks writes to a filesystem, until it is thawed or the test ends.
func freeze(t *testing.T, at string) (thaw func()) {
	t.Helper()
	dir, err := os.Open(at)
	if err == nil {
		err = fsctl.Freeze(dir)
	}
	require.NoError(t, err)
	thaw = sync.OnceFunc(func() {
		assert.NoError(t, errors.Join(fsctl.Thaw(dir), dir.Close()))
	})
	t.Cleanup(thaw)
	return thaw
}
