package loop

import (
	"errors"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// cutShort runs an operation up to a step and leaves everything as it is at that step.
func (f *fixture) cutShort(do func() error, step int) {
	f.Helper()
	type cut struct{}
	n := 0
	f.backend.step = func(string) {
		if n == step {
			panic(cut{})
		}
		n++
	}
	defer func() {
		f.backend.step = func(string) {}
		if p := recover(); p != (cut{}) {
			f.Fatalf("step %d: %v", step, p)
		}
	}()
	f.must(do())
}

// lacksSnapshot checks that a removed snapshot is absent.
func (f *fixture) lacksSnapshot(s dataset.Snapshot) {
	f.Helper()
	e, err := f.Stat(f.Context(), s.Dataset)
	f.must(err)
	if slices.ContainsFunc(e.Snapshots, func(o dataset.Snapshot) bool { return o.ID == s.ID }) {
		f.Errorf("snapshot %s is there", s.ID)
	}
}

// A restore that was interrupted at any step can be repeated after the volume was used. Bytes that were written
// meanwhile are in the head or in the snapshot that keeps it, and a snapshot that was listed as kept does not change.
func TestRestoreGoesOnAfterWrites(t *testing.T) {
	onPools(t, func(f *fixture) {
		c := f.stage(xfs)
		restore := func() error { return f.Restore(f.Context(), c.Dataset.ID, c.Snapshot.ID, c.Keep, nil) }
		steps := 0
		f.backend.step = func(string) { steps++ }
		f.must(restore())
		swapped := 0
		for step := range steps {
			f.backend.step = func(string) {}
			c = f.stage(xfs)
			f.cutShort(restore, step)
			done := f.get(c.Dataset.ID, "a") == "one"
			f.hasSnapshot(c.Keep, "two", done)
			if e, err := f.Stat(t.Context(), c.Dataset.ID); err != nil || len(e.Snapshots) > 1 && !done {
				t.Errorf("step %d: %v is shown before it was kept (%v)", step, e.Snapshots, err)
			}
			f.put(c.Dataset.ID, "a", "acknowledged")
			f.must(restore())
			head, kept := "one", "acknowledged"
			if done {
				swapped++
				head, kept = kept, "two"
			}
			if got := f.get(c.Dataset.ID, "a"); got != head {
				t.Errorf("step %d: the head has %q instead of %q", step, got, head)
			}
			f.hasSnapshot(c.Keep, kept, true)
			image, err := f.folderOf(c.Dataset.ID).OpenFile(f.layout.Image(c.Keep.ID.String()), os.O_RDWR)
			if err == nil {
				f.must(image.Close())
			}
			if !f.layout.Costly() && !errors.Is(err, unix.EROFS) {
				t.Errorf("step %d: what is kept can be written to (%v)", step, err)
			}
			f.settled()
		}
		if swapped == 0 || swapped == steps {
			t.Errorf("%d of %d steps are behind the exchange", swapped, steps)
		}
	})
}
