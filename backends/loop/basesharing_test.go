package loop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

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
	if _, err := image.WriteAt(have, 0); err != nil {
		t.Fatal(err)
	}
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
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
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
