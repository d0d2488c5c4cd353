package product

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// TestI9LiveRestore: containers outlive the engine, and their uses with them. They lose nothing if docker cp copies into
// and out of them. Their volume is neither removed nor restored nor destroyed until they end, and is free then, also if
// the last of them ended while the engine was down.
func TestI9LiveRestore(t *testing.T) {
	w := begin(t, host.Options{}, engine.Options{LiveRestore: true})
	for _, name := range []string{"one", "two"} {
		w.command(t, name, "live@gold", ticking, "--hostname", name)
		w.awaitMore(t, name, "/data/"+name)
	}
	w.drover(t, "snapshot", "create", "live", "--name", "before")
	pid := w.docker(t, "inspect", "-f", "{{.State.Pid}}", "one")
	out := filepath.Join(t.TempDir(), "out")
	for _, end := range []func(testing.TB){w.e.Stop, w.e.Kill9} {
		end(t)
		w.h.Restart(t) // Drover is killed as well, while nobody looks
		w.e.Up(t)
		if got := w.docker(t, "inspect", "-f", "{{.State.Pid}}", "one"); got != pid {
			t.Fatalf("the container is process %s, want %s", got, pid)
		}
		w.docker(t, "cp", "/etc/hostname", "one:/data/copied")
		w.docker(t, "cp", "one:/data/one", out)
		w.wantUses(t, "live@gold", 2, 2)
	}
	w.wantInUse(t, "live", "one", "two")
	w.docker(t, "stop", "two")
	w.wantInUse(t, "live", "one")
	w.e.Kill9(t)
	if n, err := strconv.Atoi(pid); err != nil || unix.Kill(n, unix.SIGKILL) != nil {
		t.Fatalf("process %q is not killed: %v", pid, err)
	}
	w.e.Up(t)
	w.awaitUnused(t, "live@gold")
	if got := w.once(t, "live@gold", "cat /data/one"); !strings.Contains(got, "tick") {
		t.Errorf("what was written is lost: %q", got)
	}
	w.drover(t, "snapshot", "restore", "live", "before")
	w.docker(t, "start", "one")
	w.wantUses(t, "live@gold", 1, 1)
}

// wantInUse fails unless a volume to which containers write cannot be removed, restored or destroyed. The refusals
// must have the node and a mount ID of each container, and the containers must continue.
func (w *world) wantInUse(t *testing.T, volume string, containers ...string) {
	t.Helper()
	w.wantUses(t, volume+"@gold", len(containers), len(containers))
	var ids []string
	for _, m := range w.inspect(t, volume+"@gold").Status.Mounts {
		ids = append(ids, m.ID[:12])
	}
	dataset := w.inspect(t, volume+"@gold").Status.Dataset
	for _, work := range [][]string{
		{"volume", "rm", volume},
		{"volume", "rm", volume, "--force"},
		{"snapshot", "restore", volume, "before"},
		{"trash", "purge", dataset, "--yes"},
	} {
		r := w.h.Exec(t, work...)
		if r.Exit == 0 {
			t.Errorf("drover %v succeeded on a volume in use: %s", work, r.Out)
		}
		for _, word := range append(ids, "host-a") {
			if work[0] != "trash" && !strings.Contains(r.Err, word) { // a volume in use is not in the trash
				t.Errorf("drover %v: %q does not name %s", work, r.Err, word)
			}
		}
	}
	w.refused(t, "volume is in use", "volume", "rm", volume+"@gold")
	for _, c := range containers {
		w.awaitMore(t, c, "/data/"+c)
	}
}

// awaitUnused waits until no use of a volume is recorded, and the volume is not mounted.
func (w *world) awaitUnused(t *testing.T, spelling string) {
	t.Helper()
	host.Await(t, "nobody uses "+spelling, func() error {
		if st := w.inspect(t, spelling).Status; len(st.Mounts) > 0 || st.Mounted {
			return fmt.Errorf("mounted %t, by %v", st.Mounted, st.Mounts)
		}
		return nil
	})
}

// ticking appends to a file of the volume for ever, which shows whether a container continues to write.
const ticking = "while :; do echo tick >> /data/$HOSTNAME; sleep 0.05; done"

// TestB2B7: the engine is killed together with its containers. While Drover finds out that a use was never ended,
// many callers request one thing at once.
func TestB2B7(t *testing.T) {
	w := begin(t, host.Options{}, engine.Options{})
	t.Run("B2", func(t *testing.T) { testB2(t, w) })
	t.Run("B7 run", func(t *testing.T) { testB7Run(t, w) })
	t.Run("B2 forgotten", func(t *testing.T) { testB2Forgotten(t, w) })
}

func testB2(t *testing.T, w *world) {
	for _, name := range []string{"one", "two"} {
		w.command(t, name, "shared@gold", ticking, "--hostname", name, "--restart", "always")
	}
	w.command(t, "mortal", "alone", ticking, "--hostname", "mortal")
	w.command(t, "third", "shared@gold", ticking, "--hostname", "third")
	w.wantUses(t, "shared@gold", 3, 3)
	w.docker(t, "stop", "third")
	w.wantUses(t, "shared@gold", 2, 2)
	for _, name := range []string{"one", "two"} {
		w.awaitMore(t, name, "/data/"+name)
	}
	for range 2 {
		w.e.Kill9(t)
		w.e.Up(t)
		for _, name := range []string{"one", "two"} {
			w.awaitRunning(t, name)
			w.awaitMore(t, name, "/data/"+name)
		}
		w.wantUses(t, "shared@gold", 2, 2)
		// docker cp mounts and unmounts with the mount ID that the restarted container uses again.
		w.docker(t, "cp", "/etc/hostname", "one:/data/copied")
		w.wantUses(t, "shared@gold", 2, 2)
	}
	w.docker(t, "stop", "one")
	w.wantUses(t, "shared@gold", 1, 1)
	w.awaitMore(t, "two", "/data/two")
	w.docker(t, "stop", "two")
	w.wantUses(t, "shared@gold", 0, 0)
}

// testB2Forgotten: the engine never unmounts the volume of a container that was not restarted after the engine was
// killed.
func testB2Forgotten(t *testing.T, w *world) {
	if got := w.docker(t, "inspect", "-f", "{{.State.Running}}", "mortal"); got != "false" {
		t.Errorf("a container without a restart policy is running: %s", got)
	}
	host.Await(t, "the use that nobody ends is found out", func() error {
		if st := w.inspect(t, "alone").Status; st.Mounted || len(st.Mounts) > 0 {
			return fmt.Errorf("mount IDs: %v", st.Mounts)
		}
		return nil
	})
	w.docker(t, "start", "mortal")
	w.wantUses(t, "alone", 1, 1)
	w.awaitMore(t, "mortal", "/data/mortal")
}

const crowd = 20

// testB7Run: many containers on one volume are one mount with as many IDs.
func testB7Run(t *testing.T, w *world) {
	names := make([]string, crowd)
	var wg sync.WaitGroup
	for i := range names {
		names[i] = fmt.Sprintf("crowd-%d", i)
		wg.Go(func() { w.run(t, names[i], "crowded@gold", "--network", "none") })
	}
	wg.Wait()
	w.wantUses(t, "crowded@gold", crowd, crowd)
	w.docker(t, append([]string{"rm", "-f"}, names[1:]...)...)
	w.wantUses(t, "crowded@gold", 1, 1)
	w.docker(t, "exec", names[0], "sh", "-c", "echo here > /data/file")
	w.docker(t, "rm", "-f", names[0])
	w.wantUses(t, "crowded@gold", 0, 0)
	w.docker(t, "volume", "rm", "crowded@gold")
}

// TestDroverKilled: B3, B4 and B6.
func TestDroverKilled(t *testing.T) {
	w := begin(t, host.Options{}, engine.Options{})
	t.Run("B3 I9", func(t *testing.T) { testB3(t, w) })
	t.Run("B4", func(t *testing.T) {
		refused := strings.Count(w.e.Log(), unable)
		testB4(t, w, func() bool {
			now := strings.Count(w.e.Log(), unable)
			knocked := now > refused
			refused = now
			return knocked
		})
	})
	t.Run("B6", func(t *testing.T) { testB6(t, w) })
}

func testB3(t *testing.T, w *world) {
	w.command(t, "one", "safe@gold", ticking, "--hostname", "one")
	w.command(t, "two", "safe@gold", ticking, "--hostname", "two")
	for range 3 {
		w.h.Kill9(t)
		w.awaitMore(t, "one", "/data/one")
		w.h.Up(t)
		w.awaitMore(t, "two", "/data/two")
		w.wantUses(t, "safe@gold", 2, 2)
	}
	w.h.Stop(t) // an orderly stop keeps the mounts as well
	w.awaitMore(t, "one", "/data/one")
	w.h.Up(t)
	w.docker(t, "stop", "one")
	w.wantUses(t, "safe@gold", 1, 1)
	w.awaitMore(t, "two", "/data/two")
	w.docker(t, "rm", "-f", "one", "two")
	w.wantUses(t, "safe@gold", 0, 0)
	w.docker(t, "volume", "rm", "safe@gold")
	w.wantVolumes(t)
}

// unable is the engine's log message about a plugin that does not answer on its socket.
const unable = "Unable to connect to plugin"

// TestB4Activated: B4 with the plugin's socket held by systemd.
func TestB4Activated(t *testing.T) {
	w := begin(t, host.Options{Activated: true}, engine.Options{})
	testB4(t, w, w.h.HasWaitingConnection)
	if strings.Contains(w.e.Log(), unable) {
		t.Error("the engine found a socket that nobody listens on")
	}
}

// testB4: Drover is not running while the engine starts, and is started as its unit would restart it. knocked reports
// whether the engine has called it.
func testB4(t *testing.T, w *world, knocked func() bool) {
	w.docker(t, "volume", "create", "-d", w.h.Driver, "--label", "team=a", "-o", "size=5GiB", "kept@gold")
	w.command(t, "one", "kept@gold", ticking, "--hostname", "one", "--restart", "always")
	w.awaitMore(t, "one", "/data/one")
	for _, end := range []func(testing.TB){w.e.Kill9, w.e.Stop} {
		end(t)
		w.h.Kill9(t)
		w.e.Launch(t)
		host.Await(t, "the engine looks for its volumes", func() error {
			if !knocked() {
				return errors.New("nobody has asked")
			}
			return nil
		})
		w.h.Up(t)
		w.e.Up(t)
		w.awaitRunning(t, "one")
		w.awaitMore(t, "one", "/data/one")
		w.wantUses(t, "kept@gold", 1, 1)
		if got := w.docker(t, "volume", "inspect", "-f", "{{.Labels}} {{.Options}}", "kept@gold"); got != "map[team:a] map[size:5GiB]" {
			t.Errorf("labels and options: %s", got)
		}
	}
	w.docker(t, "rm", "-f", "one")
	w.wantUses(t, "kept@gold", 0, 0)
	w.docker(t, "volume", "rm", "kept@gold")
}

// testB6 simulates a reboot: everything is stopped and unmounted, and the kernel reports another boot ID.
func testB6(t *testing.T, w *world) {
	w.command(t, "one", "boot@gold", ticking, "--hostname", "one", "--restart", "always")
	w.command(t, "mortal", "boot@gold", ticking, "--hostname", "mortal")
	w.awaitMore(t, "one", "/data/one")
	point := w.inspect(t, "boot@gold").Mountpoint
	was := len(w.lines(t, "one", "/data/one"))

	w.e.PowerOff(t)
	w.h.Kill9(t)
	require.NoError(t, w.h.Unmount())
	host.NewBootID(t, uuid.NewString())
	// The bare folder below the mount point accepts no data from a container that starts too early.
	if err := os.WriteFile(filepath.Join(point, "one"), nil, 0o600); err == nil {
		t.Error("the bare mount point can be written to")
	}
	w.h.Up(t)
	w.e.Up(t)
	w.awaitRunning(t, "one")
	w.awaitMore(t, "one", "/data/one")
	if now := len(w.lines(t, "one", "/data/one")); now < was {
		t.Errorf("%d lines before the boot, %d after it", was, now)
	}
	w.wantUses(t, "boot@gold", 1, 1)
	w.docker(t, "rm", "-f", "one", "mortal")
	w.wantUses(t, "boot@gold", 0, 0)
	if left, err := os.ReadDir(point); err != nil || len(left) > 0 {
		t.Errorf("in the bare mount point: %v, %v", left, err)
	}
	w.docker(t, "volume", "rm", "boot@gold")
}
