package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/host"
)

// fillUp writes into a file until the disk is full, and returns what it has written.
func fillUp(path string) (n int64, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := block("filling")
	for size := len(buf); size > 0; size /= 2 { // to the last block
		for err == nil {
			var m int
			m, err = f.Write(buf[:size])
			n += int64(m)
		}
		if !errors.Is(err, unix.ENOSPC) {
			return n, err
		}
		err = nil
	}
	return n, f.Sync()
}

// isWithin3Percent reports whether a figure equals a size, within 3 %.
func isWithin3Percent(got, size int64) bool { return got >= size*97/100 && got <= size*103/100 }

// allocateAllBut allocates all but the given number of bytes of a disk, without writing.
func allocateAllBut(t testing.TB, path string, leave int64) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &st); err != nil {
		t.Fatal(err)
	}
	n := int64(st.Bavail)*st.Bsize - leave
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, n), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// fillDisk uses up every byte of a disk. The returned function makes room again.
func fillDisk(t testing.TB, dir string) (free func()) {
	t.Helper()
	ballast := filepath.Join(dir, "ballast")
	allocateAllBut(t, ballast, 8<<20)
	if _, err := fillUp(ballast + ".rest"); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := errors.Join(os.Remove(ballast), os.Remove(ballast+".rest")); err != nil {
			t.Fatal(err)
		}
	}
}

// A full volume is full only for its container, and df shows its size.
func TestB15VolumeFull(t *testing.T) {
	w := newWorld(t, host.Options{})
	w.make(t, "small", "sized", "small")
	w.make(t, "beside", "plain", "beside")
	w.hasRoom(t, "small", 320<<20)
	w.plug.Within(t, "small", func(root string) {
		n, err := fillUp(filepath.Join(root, "filling"))
		w.ok(t, err)
		if !isWithin3Percent(n, 320<<20) {
			t.Errorf("%d bytes went into a volume of 320 MiB", n)
		}
		w.write(t, "beside", "beside still")
		w.ok(t, w.plug.Create("more", nil))
		w.volumes["more"] = ""
		w.ok(t, os.Remove(filepath.Join(root, "filling")))
	})
	w.kept(t)
	w.tidy(t)
}

// A full pool refuses to create anything, and the error says why and what to do. From 85 % on it warns. Its contents
// can be removed, and then there is room again.
func TestB15PoolFull(t *testing.T) {
	w := newWorld(t, host.Options{Size: 2 << 30})
	w.make(t, "base", "plain", "base")
	w.make(t, "end", "plain", "end")
	w.ok(t, w.plug.Remove("end"))
	w.forget("end")
	w.trash["end"] = "end"
	ballast := filepath.Join(w.h.Root, "ballast")

	allocateAllBut(t, ballast, 300<<20) // of 2 GiB
	if r := w.h.Exec(t, "doctor"); r.Exit != 1 || !strings.Contains(r.Out, "NEARLY FULL: ") {
		t.Errorf("doctor: exit %d\n%s", r.Exit, r.Out)
	}
	host.Await(t, "an event warns", func() error {
		if out := w.h.Must(t, "events"); !strings.Contains(out, "pool.full") {
			return errors.New(out)
		}
		return nil
	})
	w.ok(t, w.plug.Create("more", nil))
	w.volumes["more"] = ""

	allocateAllBut(t, ballast+".more", 60<<20)
	w.says(t, w.plug.Create("toomuch", nil), "pool default", "nearly full", "the trash has 1 volume", "drover trash ls")
	w.says(t, w.submit(t, api.Request{Kind: dataset.OpSnapshot, Volume: "base", Name: "snap"}), "pool default", "nearly full")
	w.says(t, w.submit(t, api.Request{Kind: dataset.OpClone, Volume: "copy", Options: map[string]string{"from": "base"}}), "pool default", "nearly full")
	if r := w.h.Exec(t, "doctor"); r.Exit == 0 || !strings.Contains(r.Out, "creates are refused") {
		t.Errorf("doctor: exit %d\n%s", r.Exit, r.Out)
	}
	w.listed(t)
	w.holds(t, "base", "base")
	w.drop(t, "more")
	w.h.Must(t, "trash", "purge", "--all", "--yes")
	delete(w.trash, "end")
	w.ok(t, errors.Join(os.Remove(ballast), os.Remove(ballast+".more")))
	host.Await(t, "there is room again", func() error { return w.plug.Create("toomuch", nil) })
	w.volumes["toomuch"] = ""
	w.kept(t)
	w.tidy(t)
}

// A pool without a free block is still a pool after a restart. Removing its contents makes room.
func TestB15PoolWithoutABlock(t *testing.T) {
	for _, fs := range []string{"xfs", "btrfs"} {
		t.Run(fs, func(t *testing.T) {
			shelf := scratch.Mount(t, "xfs", 8<<30)
			state, pool := newDisk(t, shelf, "ext4", 256<<20), newDisk(t, shelf, fs, 1<<30)
			w := newWorld(t, host.Options{
				Root:   filepath.Join(state.at, "root"),
				Config: fmt.Sprintf("pools: [{name: default, backend: loop, path: %s/pool}]\n", pool.at),
			})
			w.make(t, "gone", "plain", "gone")
			w.make(t, "kept", "plain", "kept")
			free := fillDisk(t, pool.at)
			w.h.Restart(t)
			w.says(t, w.plug.Create("toomuch", nil), "full")
			w.drop(t, "gone")
			free()
			// btrfs frees the space with its next commit, within half a minute.
			dir, err := os.Open(pool.at)
			w.ok(t, err)
			w.ok(t, errors.Join(fsctl.Sync(dir), dir.Close()))
			host.Await(t, "there is room again", func() error { return w.plug.Create("toomuch", nil) })
			w.volumes["toomuch"] = ""
			w.kept(t)
			w.tidy(t)
		})
	}
}

// The disk of the state is full to the last byte. Existing volumes work, and can be mounted, unmounted and removed.
// A request that cannot be recorded is refused and not carried out.
func TestB15StateDiskFull(t *testing.T) {
	shelf := scratch.Mount(t, "xfs", 8<<30)
	state, pool := newDisk(t, shelf, "ext4", 256<<20), newDisk(t, shelf, "xfs", 3<<30)
	w := newWorld(t, host.Options{
		Root:   filepath.Join(state.at, "root"),
		Config: fmt.Sprintf("pools: [{name: default, backend: loop, path: %s/pool}]\n", pool.at),
	})
	for i := range 20 {
		w.make(t, fmt.Sprintf("vol%d", i), "plain", fmt.Sprint(i))
	}
	free := fillDisk(t, state.at)
	w.says(t, w.plug.Create("toomuch", nil), "full")
	w.kept(t)
	for i := range 10 {
		w.drop(t, fmt.Sprintf("vol%d", i))
	}
	w.h.Restart(t)
	w.kept(t)
	w.drop(t, "vol10")
	w.h.Stop(t)
	w.h.Up(t)
	w.kept(t)
	free()
	w.make(t, "toomuch", "plain", "enough")
	w.kept(t)
	w.tidy(t)
}

// The host's disk is full under a pool in an image. The pool is not affected, and a request that needs more of the
// disk is refused.
func TestB15HostDiskFull(t *testing.T) {
	shelf := scratch.Mount(t, "xfs", 8<<30)
	hostDisk := newDisk(t, shelf, "ext4", 3<<30)
	w := newWorld(t, host.Options{Root: filepath.Join(hostDisk.at, "root")})
	if got := w.pool(t, "default"); got.Backend != "loop" || !strings.HasSuffix(got.Path, ".img") {
		t.Fatalf("the default pool is %s at %s, want an image", got.Backend, got.Path)
	}
	w.make(t, "base", "sized", "base")
	w.make(t, "waste", "plain", "waste")
	w.ok(t, w.plug.Remove("waste"))
	w.forget("waste")
	w.trash["waste"] = "waste"
	id := host.NewID()
	root, err := w.plug.Mount("base", id)
	w.ok(t, err)

	free := fillDisk(t, hostDisk.at)
	// The volume can be filled to its size, although the host has no space left.
	n, err := fillUp(filepath.Join(root, "filling"))
	w.ok(t, err)
	if !isWithin3Percent(n, 320<<20) {
		t.Errorf("%d bytes went into a volume of 320 MiB", n)
	}
	err = w.plug.Create("toomuch", nil)
	w.says(t, err, w.h.Root, "is nearly full", "df -h")
	r := w.h.Exec(t, "doctor")
	if !strings.Contains(r.Out, "creates are refused: the disk of "+w.h.Root) || r.Exit != 1 {
		t.Errorf("doctor: exit %d\n%s", r.Exit, r.Out)
	}
	// The contents of the image's trash would give the disk no space.
	if strings.Contains(err.Error()+r.Out, "purge") {
		t.Errorf("purging is advised: %v\n%s", err, r.Out)
	}
	w.ok(t, w.plug.Unmount("base", id))
	w.kept(t)
	w.h.Restart(t)
	w.kept(t)

	// The documented remedy: free space on the host's disk.
	free()
	w.h.Restart(t)
	w.ok(t, w.plug.Create("toomuch", nil))
	w.volumes["toomuch"] = ""
	w.kept(t)
	w.plug.Within(t, "base", func(root string) {
		w.ok(t, os.Remove(filepath.Join(root, "filling")))
		w.awaitStatus(t, "the volume has space again", func(r statusReport) bool { return r.Healthy })
	})
	w.h.Clean(t)
}
