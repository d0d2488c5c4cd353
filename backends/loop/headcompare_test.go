package loop

import (
	"os"
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
)

// spoilNext changes one byte of the future head when an operation reaches a step.
func (f *fixture) spoilNext(d dataset.Dataset, step string) {
	f.Helper()
	f.backend.step = func(now string) {
		if now != step {
			return
		}
		image := f.folderOf(d.ID).Dir.Path(f.layout.Image(nextItem))
		scratch.Run(f.T, "cp", "--sparse=always", image, image+".other") // the image may have another name
		other, err := os.OpenFile(image+".other", os.O_RDWR, 0)
		f.must(err)
		b := make([]byte, 1)
		_, err = other.ReadAt(b, 0)
		f.must(err)
		b[0] ^= 1
		_, err = other.WriteAt(b, 0)
		f.must(err)
		f.must(other.Close())
		f.must(os.Rename(image+".other", image))
	}
}

// I3: the future head is compared with its snapshot before it becomes the head, both when a copy is promoted and when
// a volume is restored. A head that differs is discarded, and nothing else is lost.
func TestI3HeadIsComparedFirst(t *testing.T) {
	onPools(t, func(f *fixture) {
		c := f.stage(xfs)
		f.spoilNext(c.Dataset, "loop.restore.cloned")
		f.isKind(f.Restore(f.Context(), c.Dataset.ID, c.Snapshot.ID, c.Keep, nil), dataset.ErrCorrupt)
		f.backend.step = func(string) {}
		f.isWhole(c.Dataset.ID, "two", true)
		f.put(c.Dataset.ID, "b", "")

		f.must(f.Supersede(f.Context(), c.Dataset.ID, c.Keep))
		f.spoilNext(c.Dataset, "loop.promote.cloned")
		f.isKind(f.Promote(f.Context(), c.Dataset.ID, c.Snapshot.ID), dataset.ErrCorrupt)
		f.backend.step = func(string) {}
		if e, err := f.Stat(f.Context(), c.Dataset.ID); err != nil || e.State != backends.EntryCopy || e.Promoted {
			f.Errorf("%+v, %v", e, err)
		}
		f.hasSnapshot(c.Snapshot, "one", true)
		f.hasSnapshot(c.Keep, "two", true)
	})
}
