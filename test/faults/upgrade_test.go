package faults

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/host"
)

var update = flag.Bool("update", false, "make testdata/state-1.tar.gz anew: only for what no release has written yet")

// fixture is the root of a Drover in version 1 of the state, with a pool of backend dir. The state contains paths, so
// it must be where it was made: in this folder, which every system has and which is separate in the mount namespace
// of the test.
const (
	fixture   = "testdata/state-1.tar.gz"
	fixtureAt = "/mnt/root"
	fixtureOf = "pools: [{name: default, backend: dir, path: /mnt/root/pool}]\n"
)

func fixtureWorld(t *testing.T, down bool) *world {
	t.Helper()
	disk := scratch.Mount(t, "ext4", 1<<30)
	if err := unix.Mount(disk, filepath.Dir(fixtureAt), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(filepath.Dir(fixtureAt), unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if down {
		unpack(t, fixture, filepath.Dir(fixtureAt))
	}
	w := newWorld(t, host.Options{Root: fixtureAt, Config: fixtureOf, Driver: "drover-fixture", Down: down})
	w.volumes = map[string]string{"base": "base", "copy": "first", "labelled": "labelled"}
	w.snapshots = map[string]string{"base/first": "first"}
	w.trash = map[string]string{"old": "old"}
	return w
}

// The state of an old binary opens in this one, with its whole contents.
func TestB16OldState(t *testing.T) {
	if *update {
		makeFixture(t)
	}
	newBootID(t) // all uses of the volumes have ended since
	w := fixtureWorld(t, true)
	w.h.Up(t)
	_, err := w.plug.Get("base@plain")
	w.ok(t, err)
	listed, err := w.plug.List() // has the name that was asked for last
	w.ok(t, err)
	if got := strings.Join(listed, " "); !strings.Contains(got, "base@plain") {
		t.Errorf("the spellings of the engine: %s", got)
	}
	w.kept(t)
	v := w.volume(t, "labelled")
	if v.Labels["team"] != "blue" || !v.Protected || v.RequestedAs != "labelled" || v.Profile.Owner == nil || v.Profile.Owner.UID != 999 {
		t.Errorf("%+v", v.Dataset)
	}
	if c := w.volume(t, "copy"); c.Origin == nil || c.Origin.Dataset != w.volume(t, "base").ID {
		t.Errorf("%+v", c.Dataset)
	}
	w.tidy(t)
	w.ok(t, w.submit(t, api.Request{Kind: dataset.OpUndelete, Volume: "old"}))
	w.volumes["old"] = "old"
	delete(w.trash, "old")
	w.make(t, "new", "plain", "new")
	w.h.Restart(t)
	w.kept(t)
	w.tidy(t)
}

// makeFixture writes the state in its present version.
func makeFixture(t *testing.T) {
	t.Run("update", func(t *testing.T) {
		w := fixtureWorld(t, false)
		w.ok(t, w.plug.Create("base@plain", nil))
		w.write(t, "base@plain", "first")
		delete(w.volumes, "base@plain")
		w.volumes["base"] = "first"
		w.snapshot(t, "base", "first")
		w.ok(t, w.plug.Create("copy@snapshot-"+w.snapshotID(t, "base", "first"), nil))
		w.write(t, "base", "base")
		w.ok(t, w.plug.Create("labelled", map[string]string{"label.team": "blue", "protect": "true", "owner": "999:998"}))
		w.write(t, "labelled", "labelled")
		w.make(t, "old", "plain", "old")
		w.ok(t, w.plug.Remove("old"))
		w.forget("old")
		w.use(t, "base")
		w.kept(t)
		w.h.Stop(t)
		w.ok(t, w.h.Unmount())
		w.ok(t, os.MkdirAll(filepath.Dir(fixture), 0o755))
		out, err := exec.Command("tar", "--create", "--gzip", "--sparse", "--sort=name", "--file", fixture,
			"--directory", filepath.Dir(fixtureAt), "--exclude=root/mnt/*", "root").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	})
}

// unpack unpacks a compressed archive.
func unpack(t testing.TB, file, dir string) {
	t.Helper()
	out, err := exec.Command("tar", "--extract", "--gzip", "--same-owner", "--file", file, "--directory", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// Mounts stay while the binary is replaced: a container that writes does not notice, and the new binary receives its
// unmount.
func TestB16Exchange(t *testing.T) {
	w := newWorld(t, host.Options{})
	w.make(t, "base", "plain", "base")
	root := w.use(t, "base")
	stop, lines := writeOn(t, filepath.Join(root, "log"))
	w.h.Stop(t)
	lines.await(t)
	w.h.Up(t)
	lines.await(t)
	w.holds(t, "base", "base")
	if got := w.mounted(t); len(got) != 1 {
		t.Errorf("mounted: %v", got)
	}
	stop()
	w.release(t, "base")
	w.tidy(t)
}

type counter struct{ atomic.Int64 }

// await waits until more was written.
func (c *counter) await(t testing.TB) {
	t.Helper()
	was := c.Load()
	host.Await(t, "the writer goes on", func() error {
		if c.Load() < was+3 {
			return errors.New("it does not")
		}
		return nil
	})
}

// writeOn writes and flushes lines until stop is called; an error fails the test.
func writeOn(t testing.TB, path string) (stop func(), lines *counter) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	lines = &counter{}
	quit, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-quit:
				done <- f.Close()
				return
			default:
			}
			if _, err := f.WriteString("line\n"); err != nil {
				done <- err
				return
			}
			if err := f.Sync(); err != nil {
				done <- err
				return
			}
			lines.Add(1)
		}
	}()
	return func() {
		close(quit)
		if err := <-done; err != nil {
			t.Errorf("the writer: %v", err)
		}
	}, lines
}

// The fixture has what this test says, and nothing of the machine on which it was made.
func TestFixture(t *testing.T) {
	f, err := os.Open(fixture)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		seen[h.Name] = true
	}
	for _, name := range []string{"root/store.db", "root/agent.db", "root/node.json", "root/pool/pool.json"} {
		if !seen[name] {
			t.Errorf("%s is not in the fixture", name)
		}
	}
}
