package reflink_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

const (
	kib   = 1 << 10
	mib   = 1 << 20
	block = 4096
)

var pools = map[string]int64{"xfs": scratch.XFS, "btrfs": scratch.Btrfs}

// onPools runs a test on each filesystem that has reflinks.
func onPools(t *testing.T, test func(t *testing.T, dir string)) {
	for fstype, size := range pools {
		t.Run(fstype, func(t *testing.T) { test(t, scratch.Mount(t, fstype, size)) })
	}
}

func create(t *testing.T, path string, data []byte) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	_, err = f.Write(data)
	require.NoError(t, err)
	return f
}

func clone(t *testing.T, path string, src *os.File) *os.File {
	t.Helper()
	f := create(t, path, nil)
	require.NoError(t, reflink.Clone(f, src))
	return f
}

func content(t *testing.T, f *os.File) []byte {
	t.Helper()
	fi, err := f.Stat()
	require.NoError(t, err)
	b := make([]byte, fi.Size())
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return b
}

func random(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32()) | 1
	}
	return b
}

func TestSupported(t *testing.T) {
	for fstype, size := range map[string]int64{"xfs": scratch.XFS, "btrfs": scratch.Btrfs, "ext4": scratch.Ext4} {
		dir := filepath.Join(scratch.Mount(t, fstype, size), "dir")
		require.NoError(t, os.Mkdir(dir, 0o700))
		got, err := reflink.Supported(dir)
		if err != nil || got != (fstype != "ext4") {
			t.Errorf("%s: %v, %v", fstype, got, err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("%s: left %v", fstype, left)
		}
	}
	if _, err := reflink.Supported("/nonexistent"); err == nil {
		t.Error("a missing directory was probed")
	}
	if _, err := reflink.Supported("/proc"); err == nil {
		t.Error("/proc was probed")
	}
}

func TestClone(t *testing.T) {
	onPools(t, func(t *testing.T, dir string) {
		data := bytes.Repeat([]byte("data"), mib)
		src := create(t, filepath.Join(dir, "src"), data)
		dst := clone(t, filepath.Join(dir, "dst"), src)
		_, err := src.WriteAt([]byte("other"), 0)
		require.NoError(t, err)
		if !bytes.Equal(content(t, dst), data) {
			t.Error("the clone differs")
		}
		other := create(t, filepath.Join(t.TempDir(), "elsewhere"), nil)
		if err := reflink.Clone(other, src); !errors.Is(err, reflink.ErrUnsupported) || !errors.Is(err, unix.EXDEV) {
			t.Errorf("between filesystems: %v", err)
		}
	})
}

// XFS preallocates blocks after the end of a growing file, so there may be more extents than were written.
func TestExtentsOfManyBatches(t *testing.T) {
	onPools(t, func(t *testing.T, dir string) {
		f := create(t, filepath.Join(dir, "f"), nil)
		const n = 2500
		for i := range n {
			_, err := f.WriteAt(make([]byte, block), int64(i)*2*block)
			require.NoError(t, err)
		}
		ext, err := reflink.Extents(f)
		require.NoError(t, err)
		if count, err := reflink.Count(f); err != nil || count != len(ext) || count < n {
			t.Fatalf("counted %d, listed %d, %v", count, len(ext), err)
		}
		written, end := 0, int64(0)
		for _, e := range ext {
			if e.Offset < end {
				t.Fatalf("%+v after %d", e, end)
			}
			end = e.Offset + e.Length
			if e.Flags&reflink.Unwritten == 0 && e.Offset%(2*block) == 0 && e.Length == block {
				written++
			}
		}
		if written != n {
			t.Errorf("%d of %d blocks", written, n)
		}
	})
}

// apply makes base equal to now, using only the ranges.
func apply(t *testing.T, base, now *os.File, ranges []reflink.Range) []byte {
	t.Helper()
	out := content(t, base)
	want := content(t, now)
	switch {
	case len(out) > len(want):
		out = out[:len(want)]
	default:
		out = append(out, make([]byte, len(want)-len(out))...)
	}
	end := int64(0)
	for _, r := range ranges {
		if r.Offset < end || r.Length <= 0 || r.Offset+r.Length > int64(len(want)) {
			t.Fatalf("range %+v after %d in a file of %d", r, end, len(want))
		}
		end = r.Offset + r.Length
		if r.Zero {
			clear(out[r.Offset:end])
		} else {
			copy(out[r.Offset:end], want[r.Offset:end])
		}
	}
	return out
}

// The test makes random writes, holes, preallocations, truncations and further clones. The ranges that Changed returns
// turn each snapshot into the next one, and include no block that was not changed.
func TestChangedTurnsOneIntoTheNext(t *testing.T) {
	onPools(t, func(t *testing.T, dir string) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		rng := rand.New(rand.NewPCG(seed, 0))
		head := create(t, filepath.Join(dir, "head"), random(rng, 2*mib))
		old := clone(t, filepath.Join(dir, "snap0"), head)
		for round := range 12 {
			touched := make(map[int64]bool)
			for range 1 + rng.IntN(20) {
				mutate(t, rng, head, touched)
			}
			now := clone(t, filepath.Join(dir, "snap"+string(rune('A'+round))), head)
			ranges, err := reflink.Changed(old, now)
			require.NoError(t, err)
			if !bytes.Equal(apply(t, old, now, ranges), content(t, now)) {
				t.Fatalf("round %d: not the same after %v", round, ranges)
			}
			sizes := len(content(t, old)) == len(content(t, now))
			if same, err := reflink.Same(old, now); err != nil || same != (sizes && len(ranges) == 0) {
				t.Fatalf("round %d: the same %v, %v, after %v", round, same, err, ranges)
			}
			if same, err := reflink.Same(now, head); err != nil || !same {
				t.Fatalf("round %d: a clone is not the same, %v", round, err)
			}
			for _, r := range ranges {
				for off := r.Offset; off < r.Offset+r.Length; off += block {
					if !touched[off/block] {
						t.Errorf("round %d: block %d in %+v was not touched", round, off/block, r)
					}
				}
			}
			old = now
		}
	})
}

// mutate makes one random change, and records the blocks that it may change.
func mutate(t *testing.T, rng *rand.Rand, f *os.File, touched map[int64]bool) {
	t.Helper()
	fi, err := f.Stat()
	require.NoError(t, err)
	off := rng.Int64N(fi.Size())
	n := int64(1 + rng.IntN(64*kib))
	end := off + n
	fd := int(f.Fd())
	switch rng.IntN(6) {
	case 0:
		err = unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	case 1:
		err = unix.Fallocate(fd, 0, off, n)
	case 2:
		end = max(fi.Size(), off+block+1)
		err = f.Truncate(off + block + 1) // btrfs has smaller files inline, without blocks to compare
	case 3:
		_, err = f.WriteAt(random(rng, int(n)), fi.Size()+rng.Int64N(mib))
		if now, statErr := f.Stat(); statErr == nil {
			off, end = fi.Size()-1, now.Size()
		}
	default:
		_, err = f.WriteAt(random(rng, int(n)), off)
	}
	require.NoError(t, err)
	for b := off / block; b <= end/block; b++ {
		touched[b] = true
	}
}

// A single different block is found wherever it is in a map of many parts, and no other block is reported.
func TestSameInManyBatches(t *testing.T) {
	onPools(t, func(t *testing.T, dir string) {
		old := create(t, filepath.Join(dir, "old"), nil)
		const n = 2500
		for i := range n {
			_, err := old.WriteAt(make([]byte, block), int64(i)*2*block)
			require.NoError(t, err)
		}
		for i, at := range []int64{0, 1024, 1025, 2047 * 2, 2048 * 2, n*2 - 2} {
			now := clone(t, filepath.Join(dir, fmt.Sprint(i)), old)
			if same, err := reflink.Same(old, now); err != nil || !same {
				t.Fatalf("the same: %v, %v", same, err)
			}
			if _, err := now.WriteAt([]byte("x"), at*block); err != nil {
				t.Fatal(err)
			}
			for _, files := range [][2]*os.File{{old, now}, {now, old}} {
				if same, err := reflink.Same(files[0], files[1]); err != nil || same {
					t.Errorf("block %d was written: the same %v, %v", at, same, err)
				}
			}
		}
		require.NoError(t, os.Link(old.Name(), filepath.Join(dir, "link")))
		link, err := os.Open(filepath.Join(dir, "link"))
		require.NoError(t, err)
		defer link.Close()
		if same, err := reflink.Same(old, link); err != nil || !same {
			t.Errorf("by two names: the same %v, %v", same, err)
		}
	})
}

func TestChangedOfEqualFiles(t *testing.T) {
	onPools(t, func(t *testing.T, dir string) {
		head := create(t, filepath.Join(dir, "head"), bytes.Repeat([]byte("x"), mib+1))
		require.NoError(t, head.Truncate(8*mib))
		snap := clone(t, filepath.Join(dir, "snap"), head)
		if got, err := reflink.Changed(head, snap); err != nil || len(got) != 0 {
			t.Errorf("got %v, %v", got, err)
		}
		_, err := head.WriteAt([]byte("y"), 100)
		require.NoError(t, err)
		got, err := reflink.Changed(snap, head)
		if diff := cmp.Diff([]reflink.Range{{Offset: 0, Length: block}}, got); err != nil || diff != "" {
			t.Errorf("one byte: %v %s", err, diff)
		}
		got, err = reflink.Data(snap)
		if diff := cmp.Diff([]reflink.Range{{Offset: 0, Length: mib + block}}, got); err != nil || diff != "" {
			t.Errorf("data: %v %s", err, diff)
		}
	})
}

func TestCompressedCountsAsChanged(t *testing.T) {
	dir := scratch.Mount(t, "btrfs", scratch.Btrfs, "compress-force=zstd")
	head := create(t, filepath.Join(dir, "head"), bytes.Repeat([]byte("x"), mib))
	snap := clone(t, filepath.Join(dir, "snap"), head)
	got, err := reflink.Changed(snap, head)
	if diff := cmp.Diff([]reflink.Range{{Offset: 0, Length: mib}}, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

func TestPunchZeros(t *testing.T) {
	onPools(t, func(t *testing.T, dir string) {
		rng := rand.New(rand.NewPCG(1, 2))
		data := make([]byte, 8*mib+777)
		copy(data[3*mib:], random(rng, 5*block))          // zeros before
		copy(data[3*mib+9*block:], random(rng, 64*block)) // a run of 4 blocks: too short
		copy(data[6*mib:], random(rng, block))
		f := create(t, filepath.Join(dir, "f"), data)
		require.NoError(t, f.Sync())
		// Like the remains of mkfs: allocated, never written, and shorter than the minimum run.
		if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 7*mib,
			2*block); err != nil {
			t.Fatal(err)
		}
		require.NoError(t, unix.Fallocate(int(f.Fd()), 0, 7*mib, 2*block))
		// XFS has also allocated blocks after the end of the file. Free them.
		require.NoError(t, errors.Join(f.Truncate(8*mib+778), f.Truncate(8*mib+777)))
		for i, want := range []int64{8*mib + 777 - (5+4+64+1)*block, 0} {
			got, err := reflink.PunchZeros(f, 8*block)
			if err != nil || got != want {
				t.Errorf("call %d: punched %d (%v), want %d", i, got, err, want)
			}
		}
		if !bytes.Equal(content(t, f), data) {
			t.Error("the file reads otherwise")
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Blocks*512 > 74*block+64*kib {
			t.Errorf("%d bytes are allocated, %v", st.Blocks*512, err)
		}
		ranges, err := reflink.Data(f)
		want := []reflink.Range{{Offset: 3 * mib, Length: 73 * block}, {Offset: 6 * mib, Length: block}}
		if diff := cmp.Diff(want, ranges); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	})
}
