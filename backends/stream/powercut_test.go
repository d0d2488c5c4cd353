package stream_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/stream"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// I2: after a power cut, the recorded part of a snapshot is in the file, and a dropped part has no record. A later
// file could take its place.
func TestI2PartSurvivesAPowerCut(t *testing.T) {
	image := scratch.Image(t, "ext4", scratch.Ext4)
	r := newRig(t, 10<<20)
	r.dir = scratch.MountImage(t, "ext4", image)
	var err error
	if r.root, err = safefile.OpenDir(r.dir); err != nil {
		t.Fatal(err)
	}
	defer r.root.Close()
	cut := func() (*backends.Partial, string) {
		t.Helper()
		path := scratch.CutPower(t, "ext4", image)
		root, err := safefile.OpenDir(path)
		require.NoError(t, err)
		defer root.Close()
		return stream.Partial(root), path
	}
	if _, err := r.gather(0, bytes.NewReader(r.stream[:9<<20])); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	part, path := cut()
	if part == nil || part.Bytes < 8<<20 {
		t.Fatalf("of 9 MiB that came, this is recorded: %+v", part)
	}
	raw, err := os.ReadFile(filepath.Join(path, stream.File))
	if have := min(len(raw), 8<<20); err != nil || have < 8<<20 || !bytes.Equal(raw[:have], r.content[:have]) {
		t.Errorf("%d bytes are in the file, or others than those that came: %v", len(raw), err)
	}
	require.NoError(t, stream.Drop(r.root))
	_, path = cut()
	if _, err := os.Lstat(filepath.Join(path, stream.RecordFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the record of the dropped part is back: %v", err)
	}
}
