package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/host"
	"github.com/google/uuid"
)

// The power is cut at every step of every operation, and right after each was acknowledged. drover starts with what
// its disks had at that moment, on another boot. What was acknowledged is there, and an operation that was not
// acknowledged has one of its two outcomes.
func TestI2PowerCut(t *testing.T) {
	for _, layout := range []struct {
		name  string
		fs    string
		apart bool // the pool is on another disk than the store
		every int  // in the short form, one step of this number is tested
	}{
		{"xfs", "xfs", false, 3},
		{"store and pool apart", "xfs", true, 8},
		{"btrfs", "btrfs", false, 12},
	} {
		t.Run(layout.name, func(t *testing.T) {
			shelf := scratch.Mount(t, "xfs", 16<<30)
			disks := []*disk{newDisk(t, shelf, layout.fs, 3<<30)}
			o := host.Options{Root: filepath.Join(disks[0].at, "root")}
			if layout.apart {
				disks = append(disks, newDisk(t, shelf, layout.fs, 3<<30))
				o.Config = fmt.Sprintf("pools: [{name: default, backend: loop, path: %s/pool}]\n", disks[1].at)
			}
			boot := host.NewBootID(t, uuid.NewString())
			w := newWorld(t, o)
			w.make(t, "base", "plain", "first")
			w.snapshot(t, "base", "first")
			w.write(t, "base", "base")
			for i, s := range append(answered("loop"), stepsOf("xfs", "loop")...) {
				if i%layout.every != 0 && !long.Enabled() {
					continue
				}
				if !t.Run(s.String(), func(t *testing.T) { w.cutAt(t, disks, boot, s) }) {
					t.FailNow()
				}
			}
		})
	}
}

// answered is each drill, interrupted right after its answer.
func answered(backend string) (all []cutShort) {
	for _, d := range drills() {
		if len(d.only) == 0 || slices.Contains(d.only, backend) {
			all = append(all, cutShort{drill: d})
		}
	}
	return all
}

// cutAt runs a drill and cuts the power at a step of it, or after its answer.
func (w *world) cutAt(t *testing.T, disks []*disk, boot host.BootID, c cutShort) {
	d := c.drill
	if d.ready != nil {
		d.ready(t, w)
	}
	var asked bool
	var answer <-chan error
	if c.step == "" {
		err := d.ask(t, w)
		if asked = err == nil; !asked && !errors.Is(err, errAsync) {
			t.Fatal(err)
		}
	} else {
		asked, answer = w.holdAt(t, c)
	}
	var copies []string
	for _, disk := range disks {
		copies = append(copies, disk.copy(t))
	}
	w.powerCut(t, disks, copies, boot)
	if answer != nil {
		if err := <-answer; err == nil && !asked {
			t.Log("the answer was on its way when the power went") // nobody received it
		}
	}
	_ = os.Remove(w.held())
	w.h.Up(t)
	w.settled(t)
	d.ends(t, w, asked)
	w.kept(t)
	w.tidy(t)
	if d.again != nil {
		d.again(t, w)
	}
	if d.clear != nil {
		d.clear(t, w)
	}
	w.tidy(t)
}

// held is the file that exists while drover is stopped at a step.
func (w *world) held() string { return filepath.Join(w.h.Dir, "held") }

// holdAt requests the operation of a drill and returns once drover is stopped at its step. It returns whether the
// operation was acknowledged by then, and otherwise the channel for its answer.
func (w *world) holdAt(t *testing.T, c cutShort) (asked bool, answer <-chan error) {
	t.Helper()
	w.h.Kill9(t)
	w.h.Up(t, "DROVER_STEP="+c.step, "DROVER_STEP_DO=hold:"+w.held())
	ch := make(chan error, 1)
	go func() { ch <- c.drill.ask(t, w) }()
	host.Await(t, "drover comes to the step", func() error {
		_, err := os.Stat(w.held())
		return err
	})
	select {
	case err := <-ch:
		return err == nil, nil
	default:
		return false, ch
	}
}
