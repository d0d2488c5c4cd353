package loop

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/stream"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
	"github.com/google/uuid"
)

// The rest of an interrupted stream must belong to the same stream. If the source makes another stream by now, the
// whole stream is sent again.
func TestPartsOfTwoStreams(t *testing.T) {
	onPools(t, func(f *fixture) {
		h := stream.Header{
			Kind: "loop", Dataset: uuid.New(), Snapshot: uuid.New(), Size: 100 * sector, Filesystem: xfs,
		}
		make2 := func(first string) []byte {
			var buf bytes.Buffer
			w, err := stream.NewWriter(&buf, h, 0)
			f.must(err)
			f.must(errors.Join(w.Data(0, []byte(first)), w.Data(8*sector, []byte("second"))))
			_, err = w.End()
			f.must(err)
			return buf.Bytes()
		}
		one, other := make2("XFSB one"), make2("XFSB two")
		d := backends.Delivery{Dataset: newDataset(xfs), Snapshot: dataset.Snapshot{ID: h.Snapshot, Dataset: h.Dataset}}
		d.Dataset.ID = h.Dataset
		_, err := f.Receive(f.Context(), d, bytes.NewReader(one[:len(one)-60]), nil)
		require.ErrorIs(f, err, io.ErrUnexpectedEOF)
		have, err := f.Received(f.Context(), h.Dataset, h.Snapshot)
		if err != nil || have.Bytes == 0 {
			f.Fatal(have, err)
		}
		d.From = have.Bytes
		_, err = f.Receive(f.Context(), d, bytes.NewReader(other[have.Bytes:]), nil)
		f.isKind(err, dataset.ErrCorrupt)
		if have, err := f.Received(f.Context(), h.Dataset, h.Snapshot); err != nil || have != (backends.Received{}) {
			f.Errorf("kept is %+v, %v", have, err)
		}
		d.From = 0
		got, err := f.Receive(f.Context(), d, bytes.NewReader(other), nil)
		if err != nil || got.Bytes != int64(len(other)) {
			f.Errorf("all of the other: %+v, %v", got, err)
		}
	})
}

// A difference contains the changed bytes and hardly more, also between two kinds of pools.
func TestDifferenceIsSmall(t *testing.T) {
	a, b := newFixture(t, "xfs"), newFixture(t, "btrfs")
	for _, fs := range []string{xfs, ext4} {
		d := newDataset(fs)
		a.create(d)
		rng := rand.New(rand.NewPCG(1, 1))
		bulk := make([]byte, 64<<20)
		for i := range bulk {
			bulk[i] = byte(rng.Uint32())
		}
		root, unmount := a.mounted(d.ID)
		a.write(filepath.Join(root, "bulk"), string(bulk))
		base := a.takeSnapshot(d)
		const changed = 4 << 20
		file, err := os.OpenFile(filepath.Join(root, "bulk"), os.O_RDWR, 0)
		a.must(err)
		for i := range 64 {
			copy(bulk[i<<20:], bytes.Repeat([]byte{byte(i)}, changed/64))
			_, err := file.WriteAt(bulk[i<<20:i<<20+changed/64], int64(i)<<20)
			a.must(err)
		}
		a.must(errors.Join(file.Sync(), file.Close()))
		newer := a.takeSnapshot(d)
		unmount()

		var whole, delta bytes.Buffer
		_, err = a.Send(t.Context(), at(base), uuid.Nil, 0, &whole, nil)
		a.must(err)
		_, err = a.Send(t.Context(), at(newer), base.ID, 0, &delta, nil)
		a.must(err)
		c, err := a.Changed(t.Context(), at(base), at(newer))
		a.must(err)
		if c.Bytes < changed || c.Bytes > changed*11/10 || int64(delta.Len()) > c.Bytes*105/100 {
			t.Errorf("%s: %d bytes of %d changed ones, for %+v", fs, delta.Len(), changed, c)
		}

		_, err = b.Receive(t.Context(), backends.Delivery{Dataset: d, Snapshot: base}, &whole, nil)
		b.must(err)
		_, err = b.Receive(t.Context(), backends.Delivery{Dataset: d, Snapshot: newer, Base: base.ID}, &delta, nil)
		b.must(err)
		b.must(b.Promote(t.Context(), d.ID, newer.ID))
		b.must(b.Commit(t.Context(), d.ID))
		if got := b.get(d.ID, "bulk"); got != string(bulk) {
			t.Errorf("%s: %d bytes, other ones", fs, len(got))
		}
	}
}

// A stream that arrives quickly waits until a base of many extents is shared.
func TestReceiveWaitsForItsBase(t *testing.T) {
	f := newFixture(t, "xfs")
	f.backend.tuning.Part = 4096 // as slow as for an image with very many extents
	c := f.stage(xfs)
	f.must(receiveAll(t.Context(), f.Pool, c))
	f.isCopy(c, true)
}
