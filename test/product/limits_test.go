package product

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
)

// TestI8: a request that takes longer than the engine waits continues. The error says so in time, and a repeated
// request gets the result. Each refusal takes a minute.
func TestI8(t *testing.T) {
	long.Only(t)
	w := begin(t, host.Options{}, engine.Options{})
	hold := filepath.Join(w.h.Dir, "hold")
	// again restarts drover with a step at which it waits until release.
	again := func(step string) (release func()) {
		w.h.Stop(t)
		w.h.Up(t, "DROVER_STEP="+step, "DROVER_STEP_DO=hold:"+hold)
		return func() {
			t.Helper()
			if err := os.Remove(hold); err != nil {
				t.Fatal(err)
			}
		}
	}

	release := again("create.made")
	r := w.e.Docker(t, "volume", "create", "-d", w.h.Driver, "slow@gold")
	named := regexp.MustCompile(`drover: create of volume slow continues as operation ([0-9a-f]{8}) \(making\): try again, or drover operation inspect --wait [0-9a-f]{8}\n$`).FindStringSubmatch(r.Stderr)
	if r.Exit == 0 || named == nil {
		t.Fatalf("a create that hangs: exit %d, %s", r.Exit, r.Stderr)
	}
	if got := w.drover(t, "operation", "ls", "-q"); !strings.HasPrefix(got, named[1]) {
		t.Errorf("operations on record: %s, want %s", got, named[1])
	}
	release()
	w.docker(t, "volume", "create", "-d", w.h.Driver, "slow@gold")
	w.wantVolumes(t, "slow")
	if n := len(w.datasets(t)); n != 1 {
		t.Errorf("%d datasets are in the pool, want 1", n)
	}

	release = again("mount.begin")
	w.refused(t, "drover: mount of volume slow takes long and continues (mounting): try again", "run", "--rm", "-v", "slow@gold:/data:nocopy", "--volume-driver", w.h.Driver, image, "true")
	w.inspect(t, "slow@gold") // the other parts of Drover answer
	w.once(t, "other@gold", "true")
	release()
	w.run(t, "one", "slow@gold")
	w.wantUses(t, "slow@gold", 1, 1) // the failed one does not count
	w.docker(t, "stop", "one")
	w.wantUses(t, "slow@gold", 0, 0)
}
