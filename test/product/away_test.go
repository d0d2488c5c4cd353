package product

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
)

// TestB5I7: control is unreachable. Home volumes work as usual, whatever is suspended or started. Requests that only
// control can decide fail at once with the reason, and nothing is reported as absent. Afterwards everything is as it
// would have been without the outage.
func TestB5I7(t *testing.T) {
	w := begin(t, host.Options{}, engine.Options{})
	away := filepath.Join(w.h.Dir, "away")
	w.h.Stop(t)
	w.h.Up(t, "DROVER_AWAY="+away)
	w.command(t, "busy", "busy@gold", ticking, "--hostname", "busy")
	w.command(t, "stopped", "home@gold", ticking, "--hostname", "stopped")
	w.docker(t, "stop", "stopped")
	w.docker(t, "volume", "create", "-d", w.h.Driver, "spare@gold")

	if err := os.WriteFile(away, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.awaitMore(t, "busy", "/data/busy")
	listed := func() {
		t.Helper()
		if got, want := w.docker(t, "volume", "ls", "-q", "-f", "driver="+w.h.Driver), "busy@gold\nhome@gold\nspare@gold"; got != want {
			t.Errorf("docker volume ls: %q, want %q", got, want)
		}
	}
	listed()
	w.docker(t, "start", "stopped")
	w.awaitMore(t, "stopped", "/data/stopped")
	w.wantUses(t, "home@gold", 1, 1)
	w.docker(t, "stop", "stopped")
	w.wantUses(t, "home@gold", 0, 0)
	w.docker(t, "run", "--rm", "-v", "home@gold:/data", "--volume-driver", w.h.Driver, image, "true")
	const why = "cannot reach drover"
	w.refused(t, why, "volume", "create", "-d", w.h.Driver, "new@gold")
	w.refused(t, why, "run", "--rm", "-v", "new@gold:/data", "--volume-driver", w.h.Driver, image, "true")
	w.refused(t, why, "volume", "rm", "spare@gold")
	listed()
	if problem := w.inspect(t, "home@gold").Status.Problem; !strings.Contains(problem, "snapshots are unknown: "+why) {
		t.Errorf("inspect does not say what it cannot know: %q", problem)
	}

	// A start does not need control either: the containers of a host that starts alone are started as well.
	w.h.Stop(t)
	w.h.Up(t, "DROVER_AWAY="+away)
	w.wantUses(t, "busy@gold", 1, 1)
	w.docker(t, "start", "stopped")
	w.awaitMore(t, "stopped", "/data/stopped")

	if err := os.Remove(away); err != nil {
		t.Fatal(err)
	}
	w.once(t, "new@gold", "true")
	w.wantVolumes(t, "busy", "home", "new", "spare")
}
