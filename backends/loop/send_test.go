package loop

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/droverhq/drover/backends/stream"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/test/require"
	"github.com/google/uuid"
)

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
