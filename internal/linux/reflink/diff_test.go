package reflink

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// A file in the model is a list with the physical address of each block, or one of these values.
const (
	hole      = 0
	unwritten = -1
	inline    = -2
)

// extents converts blocks into extents as a filesystem does, and joins contiguous blocks.
func extents(blocks []int) []Extent {
	var out []Extent
	for i, b := range blocks {
		e := Extent{Offset: int64(i) * block, Length: block}
		switch b {
		case hole:
			continue
		case unwritten:
			e.Flags, e.Physical = Unwritten, 1<<40
		case inline:
			e.Flags = Inline
		default:
			e.Physical = uint64(b) * block
		}
		if n := len(out); n > 0 {
			l := &out[n-1]
			joins := l.Flags == 0 && l.Physical+uint64(l.Length) == e.Physical || l.Flags == Inline
			if joins && l.Flags == e.Flags && l.Offset+l.Length == e.Offset {
				l.Length += block
				continue
			}
		}
		out = append(out, e)
	}
	return out
}

func TestDiffAgainstBlockModel(t *testing.T) {
	kind := rapid.IntRange(inline, 6)
	rapid.Check(t, func(t *rapid.T) {
		old := rapid.SliceOfN(kind, 0, 30).Draw(t, "old")
		now := rapid.SliceOfN(kind, 0, 30).Draw(t, "now")
		size := int64(len(now)) * block
		if size > 0 {
			size -= rapid.Int64Range(0, block-1).Draw(t, "cut")
		}
		got := diff(extents(old), extents(now), 0, size)

		var want []Range
		for i, b := range now {
			a := hole
			if i < len(old) {
				a = old[i]
			}
			zeroA, zeroB := a == hole || a == unwritten, b == hole || b == unwritten
			if zeroA && zeroB || !zeroA && !zeroB && a == b && a != inline {
				continue
			}
			off := int64(i) * block
			want = appendRange(want, Range{Offset: off, Length: min(block, size-off), Zero: zeroB})
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}
