package guard_test

import (
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/long"
)

// Unrelated processes with large mount tables, or with very many mappings, do not delay a fence. Those that cannot be
// examined in time are stopped, and continue once they were examined.
func TestI1StrangersWithMuchToRead(t *testing.T) {
	for name, c := range map[string]struct {
		strangers int
		role, arg string
	}{
		"mount tables": {long.Rounds(8, 20), "mounts", "15"}, // of 5 MiB each
		"mappings":     {long.Rounds(8, 200), "mappings", "64000"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := shared(t)
			var others []*exec.Cmd
			for range c.strangers {
				others = append(others, beginUser(t, c.role, c.arg))
			}
			inside := t.TempDir()
			contained, log := writing(t, "writer", filepath.Join(inside, "file"), r.Paths[0], inside)
			_, onHost := writing(t, "writer", filepath.Join(r.Paths[0], "other"))
			r = w.armed(t, r, ahead)
			e := w.fenced(t, r.Dataset)
			t.Logf("%d strangers: fenced %v after the deadline by %s (bound %v): %+v", c.strangers, e.Fence.Overrun, e.Fence.By, e.Bound, e.Steps)
			for _, log := range []string{log, onHost} {
				times := written(t, log)
				t.Logf("last write %v after the deadline", times[len(times)-1]-e.Deadline)
				silent(t, log, e)
			}
			if long.Enabled() && e.Fence.Late > 0 {
				t.Errorf("the fence was complete %v after its bound: %+v", e.Fence.Late, e.Steps)
			}
			// See TestI1StrangersWithManyDescriptors.
			killed := slices.ContainsFunc(e.Steps, func(s guard.Step) bool { return s.Act == guard.ActKill })
			if got := stateOf(t, contained.Process.Pid); !killed && got != "T" {
				t.Errorf("the holder is in state %s", got)
			}
			for _, cmd := range others {
				w.goesOn(t, cmd)
			}
			t.Logf("all of them continued %v after the deadline", clock.Boottime()-e.Deadline)
			w.recheckedAfter(t, r.Dataset, clock.Boottime())
			e = w.entry(t, r.Dataset)
			silent(t, log, e)
			silent(t, onHost, e)
			if e.Breaches != 0 {
				t.Errorf("%d breaches: %+v", e.Breaches, e.Steps)
			}
			for _, cmd := range others {
				w.goesOn(t, cmd) // the guard of a parallel test may have stopped it too
				if got := stateOf(t, cmd.Process.Pid); got == "Z" {
					t.Error("a stranger was killed")
				}
			}
		})
	}
}
