package dm

import (
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/test/require"
)

// The tests of backend lvm in the lab use real devices.

func TestMangle(t *testing.T) {
	for want, parts := range map[string][]string{
		"vg0-drover_pool":          {"vg0", "drover_pool"},
		"my--vg-drover_pool-tpool": {"my-vg", "drover_pool", "tpool"},
		"a----b-x":                 {"a--b", "x"},
	} {
		if got := Mangle(parts...); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestAbsent(t *testing.T) {
	if _, err := Find("drover-test-nobody-has-this"); !errors.Is(err, ErrAbsent) && !errors.Is(err, ErrNoMapper) {
		t.Error(err)
	}
	if _, err := Status("drover-test-nobody-has-this"); !errors.Is(err, ErrAbsent) && !errors.Is(err, ErrNoMapper) {
		t.Error(err)
	}
	if err := HasTarget("drover-no-such-target"); !errors.Is(err, ErrNoTarget) && !errors.Is(err, ErrNoMapper) {
		t.Error(err)
	}
	if _, err := Find(string(make([]byte, 200))); err == nil || errors.Is(err, ErrAbsent) {
		t.Errorf("a name that is too long: %v", err)
	}
}

// list writes the answer of the kernel to the request LIST for these mappings.
func list(buf []byte, names []string) {
	ne := binary.NativeEndian
	at, last := headerSize, 0
	for i, name := range names {
		size := (12 + len(name) + 1 + 7) &^ 7
		if at+size > len(buf) {
			ne.PutUint32(buf[28:], ne.Uint32(buf[28:])|flagFull)
			return
		}
		if i > 0 {
			ne.PutUint32(buf[last+8:], uint32(at-last))
		}
		ne.PutUint64(buf[at:], uint64(i+1))
		copy(buf[at+12:], name)
		last, at = at, at+size
	}
}

// All mappings of a host are found, however many there are. An answer that never fits is an error.
func TestListOfMany(t *testing.T) {
	for _, n := range []int{0, 1, 3, 400, 40_000} {
		var names []string
		for i := range n {
			names = append(names, fmt.Sprintf("%s-%d", strings.Repeat("long", 20), i))
		}
		asked := 0
		buf, err := exchange("", 0, func(buf []byte) error {
			asked++
			if len(buf) != int(binary.NativeEndian.Uint32(buf[12:])) {
				t.Fatalf("%d bytes, which it says are %d", len(buf), binary.NativeEndian.Uint32(buf[12:]))
			}
			list(buf, names)
			return nil
		})
		if err != nil || !slices.Equal(listed(buf), names) {
			t.Errorf("of %d mappings it found %d, %v", n, len(listed(buf)), err)
		}
		if want := n > 200; (asked > 1) != want {
			t.Errorf("of %d mappings it asked %d times", n, asked)
		}
	}
	_, err := exchange("", 0, func(buf []byte) error {
		binary.NativeEndian.PutUint32(buf[28:], flagFull)
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "longer than 16 MiB") {
		t.Errorf("got %v", err)
	}
	if _, err := exchange(strings.Repeat("n", 128), 0, func([]byte) error { return nil }); err == nil {
		t.Error("a name that does not fit in is asked for")
	}
}

// thinMetadata writes the metadata that thin_restore 0.9.0 made for 300 volumes. The i-th volume, counted from 1, has
// the ID 3·i and uses i mod 7 blocks. The metadata contains only the tree of volumes.
func thinMetadata(t *testing.T, change func([]byte)) (path string) {
	t.Helper()
	f, err := os.Open("testdata/thin-metadata.gz")
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	raw, err := io.ReadAll(z)
	require.NoError(t, err)
	change(raw)
	path = filepath.Join(t.TempDir(), "metadata")
	require.NoError(t, os.WriteFile(path, raw, 0o600))
	return path
}

func TestMapped(t *testing.T) {
	got, err := Mapped(thinMetadata(t, func([]byte) {}))
	if err != nil || len(got) != 300 {
		t.Fatalf("%d volumes, %v", len(got), err)
	}
	for i := range uint64(300) {
		if n := got[3*(i+1)]; n != (i+1)%7 {
			t.Errorf("volume %d takes %d blocks", 3*(i+1), n)
		}
	}
}

// Damaged metadata, or other data, is reported as such, whatever the data contains.
func TestMappedOfOtherThings(t *testing.T) {
	for what, change := range map[string]func([]byte){
		"zeros":                      func(raw []byte) { clear(raw) },
		"a bit of the superblock":    func(raw []byte) { raw[48] ^= 1 },
		"a bit of every other block": func(raw []byte) { flip(raw[thinBlock:]) },
		"blocks in each other's place": func(raw []byte) {
			copy(raw[120*thinBlock:121*thinBlock], raw[121*thinBlock:])
		},
		"an end": func(raw []byte) { clear(raw[thinBlock:]) },
	} {
		if got, err := Mapped(thinMetadata(t, change)); !errors.Is(err, ErrThin) || got != nil {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	if _, err := Mapped(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func flip(raw []byte) {
	for at := 100; at < len(raw); at += thinBlock {
		raw[at] ^= 1
	}
}
