package loop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/stream"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
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

// A stream of another kind, or with an impossible size, is refused before anything is written.
func TestHeaderOfNoImage(t *testing.T) {
	d := backends.Delivery{Dataset: dataset.Dataset{ID: uuid.New()}, Snapshot: dataset.Snapshot{ID: uuid.New()}}
	good := stream.Header{Kind: kind, Dataset: d.Dataset.ID, Snapshot: d.Snapshot.ID, Size: blockSize}
	assert.NoError(t, checkHeader(good, d))
	for name, change := range map[string]func(*stream.Header){
		"another kind": func(h *stream.Header) { h.Kind = "btrfs" },
		"no size":      func(h *stream.Header) { h.Size = 0 },
		"a negative":   func(h *stream.Header) { h.Size = -blockSize },
		"no blocks":    func(h *stream.Header) { h.Size = blockSize + 1 },
		"too large":    func(h *stream.Header) { h.Size = 1 << 60 },
	} {
		bad := good
		change(&bad)
		assert.ErrorIsf(t, checkHeader(bad, d), dataset.ErrCorrupt, "%s", name)
	}
}

// I2: a failed flush is not repeated, because the kernel treats the pages as clean by then. Only the part of a
// received snapshot that an earlier flush brought to the disk is recorded, and the rest is sent again.
func TestI2FailedFlushOfAReceive(t *testing.T) {
	onPools(t, func(f *fixture) {
		d := newDataset(xfs)
		f.create(d)
		data := strings.Repeat("0123456789abcdef", 1<<19)
		f.put(d.ID, "a", data)
		s := f.takeSnapshot(d)
		var stream bytes.Buffer
		_, err := f.Send(f.Context(), at(s), uuid.Nil, 0, &stream, nil)
		f.must(err)
		to := newFixture(f.T, "xfs")

		var flushes int
		var safe int64
		to.backend.tuning.Fdatasync = func(file *os.File) error {
			if flushes++; flushes == 3 { // and the fourth one finds nothing to write
				have, err := to.Received(f.Context(), d.ID, s.ID)
				to.must(err)
				safe = have.Bytes
				return unix.EIO
			}
			return unix.Fdatasync(int(file.Fd()))
		}
		all := stream.Bytes()
		delivery := backends.Delivery{Dataset: d, Snapshot: s}
		if _, err := to.Receive(f.Context(), delivery, bytes.NewReader(all), nil); !errors.Is(err, unix.EIO) {
			f.Fatalf("received on a disk that fails: %v", err)
		}
		have, err := to.Received(f.Context(), d.ID, s.ID)
		if err != nil || safe == 0 || have.Bytes != safe || have.Complete {
			f.Fatalf("%+v is on record (%v), and %d bytes are on the disk", have, err, safe)
		}
		delivery.From = have.Bytes
		_, err = to.Receive(f.Context(), delivery, bytes.NewReader(all[have.Bytes:]), nil)
		to.must(err)
		to.must(to.Promote(f.Context(), d.ID, s.ID))
		to.must(to.Commit(f.Context(), d.ID))
		if got := to.get(d.ID, "a"); got != data {
			f.Errorf("%d bytes of %d are there", len(got), len(data))
		}
	})
}

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

// A flush that takes long blocks the stream only once much has arrived. There must be room for it all the same.
func TestCheckpointGoesOnMeanwhile(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	require.NoError(t, err)
	defer dir.Close()
	image, err := os.Create(filepath.Join(t.TempDir(), "image"))
	require.NoError(t, err)
	defer image.Close()
	r := &receiving{
		dir:   safefile.Dir{File: dir},
		image: image,
		to: &Pool{
			layout:  xfsLayout{},
			backend: &Backend{step: func(string) {}, tuning: &tuning{Every: 4, Lag: 10, Ahead: true}},
		},
		roomChecked: 9,
		flushing:    make(chan error, 1),
	}
	r.done.Offset, r.done.End = 9, 90
	if err := r.checkpoint(); err != nil || r.safe != 0 {
		t.Errorf("%v, the receiver has %d bytes to record", err, r.safe)
	}
	r.roomChecked = 5
	if err := r.checkpoint(); err != nil || r.roomChecked != 9 || r.writtenBack != 90 {
		t.Errorf("the room was checked at byte %d, and writing begun until %d: %v", r.roomChecked, r.writtenBack, err)
	}
	r.done.Offset = 10
	late := errors.New("the disk broke")
	go func() { r.flushing <- late }()
	assert.ErrorIsf(t, r.checkpoint(), late, "it did not wait")
}

// An interruption costs little compared with the received bytes, and a flush is rare in a long stream.
func TestCheckpointsAreRare(t *testing.T) {
	r := &receiving{to: &Pool{backend: &Backend{tuning: defaultTuning()}}}
	n := 0
	for r.done.Offset < 10<<30 {
		due := r.checkpointDistance()
		if most := max(checkpointEvery, r.done.Offset/checkpointPart, 1); due > most || due > checkpointMost {
			t.Fatalf("after %d bytes a cut costs %d", r.done.Offset, due)
		}
		r.done.Offset += due
		n++
	}
	if n > 230 {
		t.Errorf("%d checkpoints of 10 GiB", n)
	}
}

// The base of a difference is shared into the image part by part, for all sizes of blocks, images and parts, from any
// byte on, and no further than the future end of the image.
func TestBaseSharing(t *testing.T) {
	dir, err := safefile.OpenDir(scratch.Mount(t, "xfs", scratch.XFS))
	require.NoError(t, err)
	defer dir.Close()
	for _, block := range []int64{4 << 10, 16 << 10} {
		for _, size := range []int64{4096, 1 << 20, 1<<20 + 4096} {
			for _, to := range []int64{size, size + 1<<20, size / 8192 * 4096} {
				for _, from := range []int64{0, 4096, 100_000, size} {
					if from > to {
						continue
					}
					t.Run(fmt.Sprintf("%d/%d of %d from %d", block, to, size, from), func(t *testing.T) {
						checkSharing(t, dir, size, to, from, block)
					})
				}
			}
		}
	}
}

// checkSharing shares a base of one size into an image of another size, whose first bytes are different, and checks
// the result.
func checkSharing(t *testing.T, dir safefile.Dir, size, to, from, block int64) {
	base, image := named(t, dir, "base", treetest.Bytes(1, int(size))), named(t, dir, "image", nil)
	want := make([]byte, to)
	copy(want, treetest.Bytes(1, int(size)))
	have := bytes.Clone(want[:min(to, (from+block-1)/block*block)]) // the whole block was shared
	copy(have, treetest.Bytes(2, int(from)))
	copy(want, have)
	_, err := image.WriteAt(have, 0)
	require.NoError(t, err)
	require.NoError(t, image.Truncate(to))
	b, err := startBaseSharing(t.Context(), image, base, from, 128<<10, block)
	require.NoError(t, err)
	err = b.waitUntil(to / 2)
	if half := to / 2; err == nil && from < half {
		_, err = image.WriteAt(want[:half], 0) // the blocks before that are never shared again
	}
	err = errors.Join(err, b.waitAll())
	b.close()
	require.NoError(t, err)
	if got, err := io.ReadAll(io.NewSectionReader(image, 0, to+1)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the image has other bytes, %v", err)
	}
}

func named(t *testing.T, dir safefile.Dir, name string, data []byte) *os.File {
	t.Helper()
	f, err := dir.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_RDWR)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	_, err = f.Write(data)
	require.NoError(t, err)
	return f
}

// A waiter for a base that is no longer shared gets the reason.
func TestBaseSharingEnds(t *testing.T) {
	dir, err := safefile.OpenDir(scratch.Mount(t, "xfs", scratch.XFS))
	require.NoError(t, err)
	defer dir.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b, err := startBaseSharing(ctx, named(t, dir, "image", make([]byte, 1<<20)),
		named(t, dir, "base", make([]byte, 1<<20)), 0, 4096, 4096)
	require.NoError(t, err)
	defer b.close()
	assert.ErrorIs(t, b.waitAll(), context.Canceled)
}
