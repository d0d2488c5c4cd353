package dm

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/test/require"
)

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
