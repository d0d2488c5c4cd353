package loop

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/stream"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// On XFS, a snapshot for another node and a head that a move makes cost nothing, however fragmented the image is,
// until the head is written to. Then each gets its own image.
func TestSharedUntilItIsWritten(t *testing.T) {
	f := newFixture(t, "xfs")
	d := newDataset(xfs)
	f.create(d)
	f.put(d.ID, "a", "one")
	sent, mine := newTransfer(d), newSnapshot(d)
	f.must(errors.Join(f.Snapshot(t.Context(), sent, nil), f.Snapshot(t.Context(), mine, nil)))
	f.names(d, map[string]uint64{headItem: 2, sent.ID.String(): 2, mine.ID.String(): 1})
	f.put(d.ID, "a", "two")
	f.names(d, map[string]uint64{headItem: 1, sent.ID.String(): 1})
	f.hasSnapshot(sent, "one", true)

	_, unmount := f.mounted(d.ID)
	inUse := newTransfer(d)
	f.must(f.Snapshot(t.Context(), inUse, nil))
	f.names(d, map[string]uint64{headItem: 1, inUse.ID.String(): 1})
	unmount()

	last := newTransfer(d)
	f.must(errors.Join(f.Snapshot(t.Context(), last, nil), f.Demote(t.Context(), d.ID, last.ID)))
	f.must(f.Promote(t.Context(), d.ID, sent.ID))
	f.names(d, map[string]uint64{headItem: 2, sent.ID.String(): 2, last.ID.String(): 1})
	f.must(f.Commit(t.Context(), d.ID))
	f.must(f.Resize(t.Context(), d.ID, larger, nil))
	f.names(d, map[string]uint64{headItem: 1, sent.ID.String(): 1})
	f.hasSnapshot(sent, "one", true)
	f.hasSnapshot(last, "two", true)
	f.isWhole(d.ID, "one", true)
	f.settled()
}

// names checks how many names the images of items have.
func (f *fixture) names(d dataset.Dataset, want map[string]uint64) {
	f.Helper()
	for item, n := range want {
		if got := f.image(d, item).names; got != n {
			f.Errorf("%s has %d names, not %d", item, got, n)
		}
	}
}

type inode struct{ number, names uint64 }

func (f *fixture) image(d dataset.Dataset, item string) inode {
	f.Helper()
	st, err := f.folderOf(d.ID).Dir.Lstat(f.layout.Image(item))
	f.must(err)
	return inode{st.Ino, st.Nlink}
}

// Two operations run at once: one attaches the head, the other gives its image a second name. The later one notices
// the earlier one.
func TestSharedAtOnce(t *testing.T) {
	f := newFixture(t, "xfs")
	d := newDataset(xfs)
	f.create(d)
	f.put(d.ID, "a", "none")
	for round := range 40 {
		s := newTransfer(d)
		before := f.get(d.ID, "a")
		var both sync.WaitGroup
		attached := make([]backends.Attachment, 2)
		for i := range attached {
			both.Go(func() {
				var err error
				if attached[i], err = f.Attach(t.Context(), d.ID, backends.AttachOptions{}); err != nil {
					t.Error(err)
				}
			})
		}
		both.Go(func() {
			assert.NoError(t, f.Snapshot(t.Context(), s, nil))
		})
		both.Wait()
		if t.Failed() {
			return
		}
		if got := f.image(d, headItem); got.names != 1 {
			t.Fatalf("round %d: the head has %d names", round, got.names)
		}
		f.must(errors.Join(attached[0].Release(), attached[1].Release()))
		f.put(d.ID, "a", fmt.Sprint(round))
		f.hasSnapshot(s, before, true)
		if got := f.get(d.ID, "a"); got != fmt.Sprint(round) {
			t.Fatalf("round %d: the head has %q", round, got)
		}
		f.must(f.DeleteSnapshot(t.Context(), d.ID, s.ID))
	}
	f.settled()
}

// If the head was replaced after the search for its device, the new head is attached.
func TestHeadThatWasReplacedMeanwhile(t *testing.T) {
	f := newFixture(t, "xfs")
	d := newDataset(xfs)
	f.create(d)
	f.put(d.ID, "a", "one")
	s := newTransfer(d)
	f.must(f.Snapshot(t.Context(), s, nil))
	var once sync.Once
	f.backend.step = func(step string) {
		if step == "loop.attach.owned" {
			once.Do(func() { f.must(f.Snapshot(t.Context(), newTransfer(d), nil)) })
		}
	}
	f.put(d.ID, "a", "two")
	f.hasSnapshot(s, "one", true)
	f.names(d, map[string]uint64{headItem: 1})
}

func newTransfer(d dataset.Dataset) dataset.Snapshot {
	s := newSnapshot(d)
	s.Kind = dataset.SnapshotTransfer
	return s
}

// equalSnapshot takes a second snapshot of a dataset that equals c.Keep, and receives the first one as a copy. receive
// receives the second one, and returns it.
func (f *fixture) equalSnapshot(c cast) (again dataset.Snapshot, receive func() dataset.Snapshot) {
	f.Helper()
	ctx := f.T.Context()
	again = newTransfer(c.Dataset)
	f.must(errors.Join(f.Snapshot(ctx, c.Keep, nil), f.Snapshot(ctx, again, nil)))
	f.must(receiveAll(ctx, f.Pool, c))
	stream, err := readdressed(ctx, f.Pool, again, c.Keep.ID, c.Other.ID)
	f.must(err)
	return again, func() dataset.Snapshot {
		f.Helper()
		d := backends.Delivery{Dataset: c.Other, Snapshot: again, Base: c.Keep.ID}
		d.Snapshot.Dataset = c.Other.ID
		_, err = f.Receive(ctx, d, bytes.NewReader(stream), nil)
		f.must(err)
		return d.Snapshot
	}
}

// On XFS, a received snapshot that equals its base is the same file.
func TestNothingNewCame(t *testing.T) {
	f := newFixture(t, "xfs")
	c := f.stage(xfs)
	again, receive := f.equalSnapshot(c)
	received := receive()
	f.isCopy(c, true)
	f.sameBytes(again, received)
	f.names(c.Other, map[string]uint64{again.ID.String(): 2, c.Keep.ID.String(): 2, c.Snapshot.ID.String(): 1})
	f.must(f.Promote(t.Context(), c.Other.ID, again.ID))
	f.must(f.Commit(t.Context(), c.Other.ID))
	f.names(c.Other, map[string]uint64{headItem: 3})
	f.isWhole(c.Other.ID, "two", true)
	f.names(c.Other, map[string]uint64{headItem: 1, again.ID.String(): 2})
	f.sameBytes(again, received)
	f.settled()
}

// Two snapshots that are names of one file free no space when one of them is deleted.
func TestUniqueSizeOfSharedFile(t *testing.T) {
	f := newFixture(t, "xfs")
	c := f.stage(xfs)
	again, receive := f.equalSnapshot(c)
	alone, err := f.UniqueSize(t.Context(), c.Other.ID, c.Keep.ID)
	if err != nil || alone == 0 {
		t.Fatalf("before the second name, the snapshot has %d bytes of its own, %v", alone, err)
	}
	receive()
	for _, s := range []dataset.Snapshot{c.Keep, again} {
		if got, err := f.UniqueSize(t.Context(), c.Other.ID, s.ID); err != nil || got != 0 {
			t.Errorf("snapshot %s: %d bytes, %v, want 0", s.ID, got, err)
		}
	}
	f.must(f.DeleteSnapshot(t.Context(), c.Other.ID, again.ID))
	if got, err := f.UniqueSize(t.Context(), c.Other.ID, c.Keep.ID); err != nil || got != alone {
		t.Errorf("after the deletion: %d bytes, %v, want %d", got, err, alone)
	}
}

// The next parts of a stream are requested before they are read: every range with data and no other, in order,
// nothing twice, in parts that the kernel accepts as a whole, and not too far ahead.
func TestPrefetch(t *testing.T) {
	ranges := []reflink.Range{
		{Length: 20<<20 + 4096}, {Offset: 21 << 20, Length: 1 << 20, Zero: true}, {Offset: 22 << 20, Length: 3 << 20},
	}
	for at := int64(30 << 20); at < 60<<20; at += 1 << 20 { // as scattered writes leave it
		ranges = append(ranges, reflink.Range{Offset: at, Length: 300 << 10}, reflink.Range{
			Offset: at + 300<<10,
			Length: 64 << 10,
			Zero:   true,
		})
	}
	image, err := os.Create(filepath.Join(t.TempDir(), "image"))
	require.NoError(t, err)
	defer image.Close()
	require.NoError(t, image.Truncate(64<<20))
	e, err := stream.NewWriter(io.Discard,
		stream.Header{Dataset: uuid.New(), Snapshot: uuid.New(), Size: 100 * sector, Filesystem: "xfs"}, 0)
	require.NoError(t, err)
	var asked []reflink.Range
	var bytes, was int64
	early := prefetch{ranges: ranges, readAhead: func(offset, length int64) {
		if length <= 0 || length > prefetchPart {
			t.Errorf("%d bytes are asked for at once", length)
		}
		bytes += length
		if n := len(asked); n > 0 && asked[n-1].Offset+asked[n-1].Length == offset {
			asked[n-1].Length += length
			return
		}
		asked = append(asked, reflink.Range{Offset: offset, Length: length})
	}}
	m := meter{total: sum(ranges).Bytes, report: func(done, total int64) {
		if bytes < min(total, was+prefetchAhead) || bytes >= was+prefetchAhead+prefetchPart {
			t.Errorf("%d bytes of %d were asked for when those after %d were read", bytes, total, was)
		}
		was = done
	}}
	require.NoError(t, sendRanges(t.Context(), e, image, ranges, &m, early))
	want := slices.DeleteFunc(slices.Clone(ranges), func(r reflink.Range) bool { return r.Zero })
	if !slices.Equal(asked, want) || was != m.total {
		t.Errorf("%d bytes of %d are sent; asked for %v, not %v", was, m.total, asked, want)
	}
}
