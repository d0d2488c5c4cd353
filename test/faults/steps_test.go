package faults

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/internal/steps"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// Drover is killed at every step of every operation. After a restart the operation has one of two correct outcomes,
// nothing that was acknowledged is lost, and nothing is left over.
func TestC1(t *testing.T) {
	for _, pool := range []string{"xfs", "btrfs", "dir"} {
		t.Run(pool, func(t *testing.T) {
			w := newWorld(t, host.Options{Pool: pool, Size: 3 << 30})
			w.make(t, "base", "plain", "first")
			w.snapshot(t, "base", "first")
			w.write(t, "base", "base")
			w.tidy(t)
			reached, drilled := map[string]bool{}, map[string]bool{}
			for _, s := range stepsOf(pool, backendOf(pool)) {
				ok := t.Run(s.String(), func(t *testing.T) { w.killedAt(t, s.drill, s.step) })
				if !ok {
					t.FailNow() // the next drills depend on it
				}
				reached[s.step], drilled[s.drill.op+s.drill.name] = true, true
			}
			if pool == "xfs" {
				for _, d := range drills() {
					if !drilled[d.op+d.name] && len(stepsOfOperation(d.op)) > 0 {
						t.Errorf("drill %s %s is not interrupted", d.op, d.name)
					}
				}
				for _, name := range steps.Names() {
					if !reached[name] {
						t.Errorf("step %s: no drill reaches it", name)
					}
				}
			}
		})
	}
}

func backendOf(pool string) string {
	if pool == "dir" {
		return "dir"
	}
	return "loop"
}

// cutShort is one drill, interrupted at one of its steps.
type cutShort struct {
	drill drill
	step  string
}

func (c cutShort) String() string {
	step := c.step
	if step == "" {
		step = c.drill.op + " answered"
	}
	return strings.ReplaceAll(strings.TrimSpace(step+" "+c.drill.name), " ", "_")
}

// stepsOf returns the steps of the drills that a backend can do. On xfs, the short form has about half of them, but each
// step in one drill at least, and each drill at one step at least. On other pools, the short form has one of twelve steps
// of each operation. The long form has all.
func stepsOf(pool, backend string) (all []cutShort) {
	possible := slices.DeleteFunc(drills(), func(d drill) bool {
		return len(d.only) > 0 && !slices.Contains(d.only, backend)
	})
	drillsOf := map[string]int{}
	for _, d := range possible {
		drillsOf[d.op]++
	}
	columns := map[string]int{} // the next drill of each operation
	cells := map[string]int{}   // the next step of a drill of each operation
	for _, d := range possible {
		names := stepsOfOperation(d.op)
		for row, name := range names {
			if name == "snapshot.frozen" && !strings.Contains(d.name, "frozen") {
				continue
			}
			turn := cells[d.op]%12 == 0 || long.Enabled()
			if pool == "xfs" {
				turn = long.Turn(row, len(names), columns[d.op], drillsOf[d.op], 2)
			}
			if turn {
				all = append(all, cutShort{d, name})
			}
			cells[d.op]++
		}
		columns[d.op]++
	}
	return all
}

// stepsOfOperation returns the names of the steps of an operation.
func stepsOfOperation(op string) (names []string) {
	for _, name := range steps.Names() {
		if of, _, _ := strings.Cut(name, "."); of == op {
			names = append(names, name)
		}
	}
	return names
}

// killedAt runs a drill and kills Drover at a step of it.
func (w *world) killedAt(t *testing.T, d drill, step string) {
	if d.ready != nil {
		d.ready(t, w)
	}
	w.h.Kill9(t)
	w.h.Up(t, "DROVER_STEP="+step, "DROVER_STEP_DO=kill")
	asked := d.ask(t, w) == nil
	w.h.Ended(t, stepTime)
	w.h.Up(t)
	w.recovers(t, d, asked)
}

// recovers checks the result of a drill after a restart. asked says that the request has succeeded.
func (w *world) recovers(t *testing.T, d drill, asked bool) {
	w.settled(t)
	w.thawed(t)
	d.ends(t, w, asked)
	w.kept(t)
	for _, left := range w.leftovers(t) {
		t.Errorf("left over, and not named by doctor: %s", left)
	}
	if d.again != nil {
		d.again(t, w)
	}
	w.h.Restart(t)
	w.settled(t)
	w.listed(t)
	w.tidy(t)
	if d.clear != nil {
		d.clear(t, w)
	}
}

// thawed fails unless volumes in use can be written to.
func (w *world) thawed(t testing.TB) {
	t.Helper()
	for _, name := range w.inUse {
		root, err := w.plug.Path(name)
		w.ok(t, err)
		written := make(chan error, 1)
		go func() { written <- writeFile(filepath.Join(root, "thawed"), nil) }()
		select {
		case err := <-written:
			w.ok(t, errors.Join(err, os.Remove(filepath.Join(root, "thawed"))))
		case <-time.After(stepTime):
			t.Fatalf("volume %s is frozen", name)
		}
	}
}

func freeBytes(t testing.TB, path string) int64 {
	t.Helper()
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(path, &st))
	return int64(st.Bavail) * st.Bsize
}
