package product

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
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
