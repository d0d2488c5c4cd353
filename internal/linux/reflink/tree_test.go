package reflink

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// joined removes irrelevant differences from a map: where extents are split, and which are shared.
func joined(all []Extent) (out []Extent) {
	for _, e := range all {
		e.Flags &= Unwritten | Inline | Encoded
		if e.Flags&opaque != 0 {
			e.Physical = 0
		}
		if n := len(out); n > 0 {
			last := &out[n-1]
			follows := last.Offset+last.Length == e.Offset && last.Flags == e.Flags
			if follows && (e.Flags&opaque != 0 || last.Physical+uint64(last.Length) == e.Physical) {
				last.Length += e.Length
				continue
			}
		}
		out = append(out, e)
	}
	return out
}

// The extents that are read from the tree of the subvolume equal those of FIEMAP.
func TestTreeTellsWhatFiemapDoes(t *testing.T) {
	dir := scratch.Mount(t, "btrfs", scratch.Btrfs, "compress=zstd")
	for name, make := range map[string]func(t *testing.T, f *os.File){
		"empty": func(*testing.T, *os.File) {},
		"inline": func(t *testing.T, f *os.File) { // too short to be compressed
			written(t, f, 0, []byte("a few bytes"))
		},
		"packed": func(t *testing.T, f *os.File) { written(t, f, 3<<20, make([]byte, 4<<20)) },
		"holes and reserved": func(t *testing.T, f *os.File) {
			fresh(t, f)
			written(t, f, 8<<20, noise(2<<20))
			require.NoError(t, unix.Fallocate(int(f.Fd()), 0, 1<<20, 3<<20))
			if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 9<<20,
				64<<10); err != nil {
				t.Fatal(err)
			}
		},
		"shared": func(t *testing.T, f *os.File) {
			fresh(t, f)
			written(t, f, 0, noise(24<<20))
			to, err := os.Create(f.Name() + ".clone")
			require.NoError(t, err)
			defer to.Close()
			require.NoError(t, btrfsctl.SetNOCOW(to))
			require.NoError(t, Clone(to, f))
			for range 3000 { // more extents than one answer of the kernel contains
				written(t, f, rand.Int64N(24<<20-8192)/4096*4096, noise(4096))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(dir, name))
			require.NoError(t, err)
			defer f.Close()
			make(t, f)
			got, err := Extents(f) // this call must write out the dirty data
			require.NoError(t, err)
			want, err := mapped(f)
			require.NoError(t, err)
			if d := cmp.Diff(joined(want), joined(got)); d != "" {
				t.Error(d)
			}
		})
	}
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(rand.Uint32()), byte(rand.Uint32())}).Read(b)
	return b
}

// fresh makes a file NOCOW, so that it is written in place and not compressed.
func fresh(t *testing.T, f *os.File) {
	t.Helper()
	require.NoError(t, btrfsctl.SetNOCOW(f))
}

func written(t *testing.T, f *os.File, at int64, data []byte) {
	t.Helper()
	_, err := f.WriteAt(data, at)
	require.NoError(t, err)
}

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
