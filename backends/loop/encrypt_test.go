package loop

import (
	"os"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// newDataset returns a dataset that is encrypted if the pool has keys.
func (f *fixture) newDataset(fs string) dataset.Dataset {
	d := newDataset(fs)
	if f.Pool.keys != nil {
		d.Encryption = &dataset.Encryption{
			ID:      uuid.MustParse("8a6b5a0e-5d0f-4c55-9c4f-0f2f5a1f7d11"),
			KeyID:   "00000000",
			Wrapped: []byte("wrapped"),
		}
	}
	return d
}

// A clone of an encrypted dataset cannot be recorded as not encrypted, because its image is a container.
func TestNoPlainCloneOfACiphertext(t *testing.T) {
	f := newFixture(t, "xfs")
	d := newDataset(xfs)
	f.create(d)
	dir := f.folderOf(d.ID).Dir
	defer dir.Close()
	image, err := dir.OpenFile(f.layout.Image(headItem), os.O_RDWR)
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

// An image that is not encrypted is not mounted for an encrypted dataset, because later writes would be readable.
func TestPlainInPlaceOfACiphertext(t *testing.T) {
	f := newFixture(t, "xfs")
	d := newDataset(xfs)
	f.create(d)
	d.Encryption = &dataset.Encryption{ID: uuid.New(), KeyID: "00000000", Wrapped: []byte("wrapped")}
	f.must(f.WriteRecord(t.Context(), d, true))
	_, err := f.Attach(t.Context(), d.ID, backends.AttachOptions{})
	f.isKind(err, dataset.ErrCorrupt)
}

// Bytes that a container writes into its filesystem are not mistaken for the remains of a LUKS container.
func TestSecondHeaderInAFilesystem(t *testing.T) {
	f := newFixture(t, "xfs")
	d := newDataset(xfs)
	f.create(d)
	dir := f.folderOf(d.ID).Dir
	defer dir.Close()
	image, err := dir.OpenFile(f.layout.Image(headItem), os.O_RDWR)
	f.must(err)
	defer image.Close()
	for first, want := range map[string]string{"XFSB": "", "LOST": "cryptsetup repair " + image.Name()} {
		_, err = image.WriteAt([]byte(first), 0)
		f.must(err)
		_, err = image.WriteAt([]byte("SKUL\xba\xbe\x00\x02"), 16<<10)
		f.must(err)
		_, _, err := f.inspect(dir, headItem)
		if said := err != nil && strings.Contains(err.Error(), want) &&
			dataset.KindOf(err) == dataset.ErrCorrupt; said != (want != "") || want == "" && err != nil {
			t.Errorf("behind %s: %v", first, err)
		}
	}
}
