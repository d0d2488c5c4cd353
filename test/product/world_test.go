// Package product tests the scenarios of one host end to end. It types the docker and drover commands that people type,
// and uses a real engine, real databases and a real kernel. Tests are named after their scenarios (A1, B3 …) and
// invariants. The scenarios of several hosts are in test/cluster, and the failures of one host in test/faults.
//
// An engine and a Drover take seconds to start, so scenarios that do not disturb each other share them. At the end of
// each group, the test checks that the group has left nothing behind (world.empty).
package product

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) { engine.Main(m) }

// image is the image of containers for which any image will do. Its volume is at /data.
const image = "drover-redis"

// world is one Drover and one engine that uses it.
type world struct {
	h *host.Host
	e *engine.Engine
	// The resources that drover used before it had anything to do.
	goroutines, files int
}

// begin starts Drover and an engine. When the test has ended, everything that it made is removed with the usual
// commands, and nothing may be left.
func begin(t *testing.T, ho host.Options, eo engine.Options) *world {
	t.Helper()
	w := &world{h: host.Start(t, ho)}
	w.goroutines, w.files = w.count(t, "go_goroutines"), w.count(t, "process_open_fds")
	w.e = engine.Start(t, eo)
	t.Cleanup(func() {
		if !t.Failed() {
			w.empty(t)
		}
	})
	return w
}

// docker runs a docker command that must succeed.
func (w *world) docker(t testing.TB, args ...string) string {
	t.Helper()
	return w.e.Must(t, args...)
}

// drover runs a drover command that must succeed.
func (w *world) drover(t testing.TB, args ...string) string {
	t.Helper()
	return w.h.Must(t, args...)
}

// refused runs a docker command that must fail with a text.
func (w *world) refused(t testing.TB, want string, args ...string) {
	t.Helper()
	r := w.e.Docker(t, args...)
	if r.Exit == 0 || !strings.Contains(r.Stderr, want) {
		t.Errorf("want exit status and %q, got exit %d: %v", want, r.Exit, r)
	}
}

// run starts a container in the background that has a volume at /data and waits to be stopped. Further options come
// before the image.
func (w *world) run(t testing.TB, name, volume string, options ...string) {
	t.Helper()
	w.command(t, name, volume, "exec sleep infinity", options...)
}

// command is run with a shell command.
func (w *world) command(t testing.TB, name, volume, command string, options ...string) {
	t.Helper()
	args := []string{"run", "--detach", "--name", name, "--stop-signal", "KILL", "--volume", volume + ":/data", "--volume-driver", w.h.Driver}
	w.docker(t, append(append(args, options...), image, "sh", "-c", command)...)
}

// once runs a command in a container that has a volume at /data, and returns its output.
func (w *world) once(t testing.TB, volume, command string) string {
	t.Helper()
	return w.docker(t, "run", "--rm", "--volume", volume+":/data", "--volume-driver", w.h.Driver, image, "sh", "-c", command)
}

// status is what docker volume inspect shows of a volume of Drover.
type status struct {
	Name, Driver, Mountpoint, CreatedAt string

	Status struct {
		Dataset, Volume, Profile, Node, Pool, Problem string
		Size, Used                                    int64
		Mounted                                       bool
		Mounts                                        []dataset.Mount
		Snapshots                                     []struct{ ID, Name string }
	}
}

func (w *world) inspect(t testing.TB, spelling string) status {
	t.Helper()
	var list []status
	out := w.docker(t, "volume", "inspect", spelling)
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 {
		t.Fatalf("%v in %s", err, out)
	}
	return list[0]
}

// uses returns how many mount IDs a volume has, and the total number of their uses.
func (w *world) uses(t testing.TB, spelling string) (ids, uses int) {
	t.Helper()
	st := w.inspect(t, spelling).Status
	for _, m := range st.Mounts {
		uses += m.Count
	}
	if st.Mounted != (len(st.Mounts) > 0) {
		t.Errorf("volume %s: mounted %t with mount IDs %v", spelling, st.Mounted, st.Mounts)
	}
	return len(st.Mounts), uses
}

// wantUses fails unless a volume has this number of uses and of IDs, and is mounted at most once.
func (w *world) wantUses(t testing.TB, spelling string, wantIDs, wantUses int) {
	t.Helper()
	if ids, uses := w.uses(t, spelling); ids != wantIDs || uses != wantUses {
		t.Errorf("volume %s has %d mount IDs and %d uses, want %d and %d", spelling, ids, uses, wantIDs, wantUses)
	}
	at, n := w.inspect(t, spelling).Mountpoint, 0
	for _, m := range w.mounts(t) {
		if m == at {
			n++
		}
	}
	if want := min(1, wantIDs); n != want {
		t.Errorf("volume %s is mounted %d times at %s, want %d", spelling, n, at, want)
	}
}

// mounts returns the mount points of datasets.
func (w *world) mounts(t testing.TB) []string {
	t.Helper()
	table, err := mount.Table()
	require.NoError(t, err)
	var points []string
	for _, m := range table.Under(filepath.Join(w.h.Root, "mnt")) {
		points = append(points, m.Mountpoint)
	}
	return points
}

// datasets returns the datasets in the default pool: live, being made, or being deleted.
func (w *world) datasets(t testing.TB) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(w.h.Root, "pools", "default", "*", "????????-????-*"))
	require.NoError(t, err)
	return found
}

// wantVolumes fails unless exactly these volumes exist.
func (w *world) wantVolumes(t testing.TB, want ...string) {
	t.Helper()
	if got := w.h.Volumes(t); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("volumes: %v, want %v", got, want)
	}
}

// awaitRunning waits until a container runs.
func (w *world) awaitRunning(t testing.TB, container string) {
	t.Helper()
	host.Await(t, container+" runs", func() error {
		if got := w.docker(t, "inspect", "--format", "{{.State.Status}}", container); got != "running" {
			return errors.New("it is " + got)
		}
		return nil
	})
}

// lines returns the lines of a file in a running container.
func (w *world) lines(t testing.TB, container, file string) []string {
	t.Helper()
	return strings.Fields(w.docker(t, "exec", container, "cat", file))
}

// awaitMore waits until a file in a container has two more lines than at the time of the call.
func (w *world) awaitMore(t testing.TB, container, file string) {
	t.Helper()
	was := len(w.lines(t, container, file))
	host.Await(t, container+" writes", func() error {
		if n := len(w.lines(t, container, file)); n < was+2 {
			return fmt.Errorf("%d lines, then %d", was, n)
		}
		return nil
	})
}

// empty removes everything that the test made, and fails if something of it is left.
func (w *world) empty(t *testing.T) {
	t.Helper()
	if ids := strings.Fields(w.docker(t, "ps", "-aq")); len(ids) > 0 {
		w.docker(t, append([]string{"rm", "-f"}, ids...)...)
	}
	host.Await(t, "all is unmounted", func() error {
		if m := w.mounts(t); len(m) > 0 {
			return fmt.Errorf("mounted: %v", m)
		}
		return nil
	})
	w.h.Clean(t)
	for _, name := range w.h.Volumes(t) {
		w.drover(t, "volume", "rm", name, "--force", "--yes")
	}
	w.drover(t, "trash", "purge", "--all", "--yes")
	w.wantVolumes(t)
	host.Await(t, "the trash is empty", func() error { // a purge that control began is not awaited
		if out := w.drover(t, "trash", "ls", "-q"); out != "" {
			return fmt.Errorf("trash after a purge: %s", out)
		}
		return nil
	})
	if out := w.docker(t, "volume", "ls", "-q", "-f", "driver="+w.h.Driver); out != "" {
		t.Errorf("docker still lists %s", out)
	}
	w.h.Clean(t)
	w.wantNoDevices(t)
	w.wantIdle(t)
	for _, line := range w.h.ErrorLines() {
		t.Errorf("drover had to log %s", line)
	}
	if left, err := os.ReadDir(filepath.Join(w.h.Root, "mnt")); err != nil || len(left) > 0 {
		t.Errorf("mount points are left: %v, %v", left, err)
	}
}

// count returns the value of a metric without labels.
func (w *world) count(t testing.TB, name string) int {
	t.Helper()
	n, ok := w.h.Metrics(t)[name]
	if !ok {
		t.Fatalf("/metrics has no %s", name)
	}
	return int(n)
}

// wantIdle fails if drover, with nothing to do, has more goroutines and open files than at its start, not counting
// those of the engine's connections.
func (w *world) wantIdle(t testing.TB) {
	t.Helper()
	const connections = 6
	host.Await(t, "drover is idle", func() error {
		g, f := w.count(t, "go_goroutines"), w.count(t, "process_open_fds")
		if g > w.goroutines+connections || f > w.files+connections {
			return fmt.Errorf("it has %d goroutines and %d files, at its start %d and %d", g, f, w.goroutines, w.files)
		}
		return nil
	})
}

// wantNoDevices fails if a loop device has a file of a pool.
func (w *world) wantNoDevices(t testing.TB) {
	t.Helper()
	host.Await(t, "all loop devices are free", func() error {
		devices, err := loopdev.List()
		if err != nil {
			return err
		}
		for _, d := range devices {
			if strings.HasPrefix(d.Backing, w.h.Root+"/") && !strings.HasSuffix(strings.TrimSuffix(d.Backing, " (deleted)"), "/default.img") {
				return fmt.Errorf("%s has %s", d.Path, d.Backing)
			}
		}
		return nil
	})
}
