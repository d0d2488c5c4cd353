package loop

import (
	"os"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Nothing is a clone of something encrypted and passes for what is not: its bytes are a container.
func TestNoPlainCloneOfACiphertext(t *testing.T) {
	f := newFixture(t, "xfs")
	d := newDataset(xfs)
	f.create(d)
	dir := f.folderOf(d)
	defer dir.Close()
	image, err := dir.openFile(f.layout.image(head), os.O_RDWR)
	f.must(err)
	header := make([]byte, 512)
	copy(header, "LUKS\xba\xbe\x00\x02")
	copy(header[168:], uuid.NewString())
	_, err = image.WriteAt(header, 0)
	f.must(err)
	f.must(image.Close())
	clone := newDataset(xfs)
	for _, size := range []dataset.Size{d.Size, larger} {
		clone.Size = size
		_, err = f.Clone(t.Context(), clone, head0(d), nil)
		f.isKind(err, dataset.ErrInvalid)
		_, err = f.Stat(t.Context(), clone.ID)
		f.isKind(err, dataset.ErrNotFound)
	}
}
