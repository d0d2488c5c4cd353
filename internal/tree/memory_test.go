package tree

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// peak measures the memory in use when a function asks whether it should end.
type peak struct {
	context.Context
	calls int
	bytes uint64
}

func (p *peak) Err() error {
	if p.calls++; p.calls < 10_000 && p.calls%500 == 0 || p.calls%10_000 == 0 {
		p.bytes = max(p.bytes, heap())
	}
	return p.Context.Err()
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// wantSmall runs a function, which may have 8 MiB in use at a time.
func wantSmall(t *testing.T, name string, run func(ctx context.Context) error) {
	t.Helper()
	before, p := heap(), &peak{Context: t.Context()}
	require.NoError(t, run(p))
	if p.calls < 500 {
		t.Fatalf("%s: asked only %d times: the test shows nothing", name, p.calls)
	}
	if p.bytes > before+8<<20 {
		t.Errorf("%s has %d KiB in use", name, (p.bytes-before)>>10)
	}
}

// plantDeep makes nested folders with long names, and returns the deepest.
func plantDeep(t *testing.T, top *os.File, levels int) (deepest int) {
	t.Helper()
	at, err := unix.Dup(int(top.Fd()))
	require.NoError(t, err)
	for range levels {
		require.NoError(t, unix.Mkdirat(at, strings.Repeat("d", 250), 0o755))
		next, err := unix.Openat(at, strings.Repeat("d", 250), unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Close(at))
		at = next
	}
	t.Cleanup(func() { require.NoError(t, unix.Close(at)) })
	return at
}

// The memory for hard links grows with their number, and not with the lengths of their paths: 2,000 of 25 kB here.
func TestMemoryForHardLinks(t *testing.T) {
	src, dst := mkdir(t, t.TempDir(), "src"), mkdir(t, t.TempDir(), "dst")
	at := plantDeep(t, src, 100)
	for i := range 2000 {
		name := fmt.Sprint("f", i)
		require.NoError(t, unix.Mknodat(at, name, unix.S_IFREG|0o600, 0))
		require.NoError(t, unix.Linkat(at, name, at, name+"-too", 0))
	}
	wantSmall(t, "WriteTar", func(ctx context.Context) error { return WriteTar(ctx, src, io.Discard) })
	wantSmall(t, "Copy", func(ctx context.Context) error { return Copy(ctx, src, dst, nil) })
	wantSmall(t, "Compare", func(ctx context.Context) error {
		found, err := Compare(ctx, src, dst)
		if len(found) > 0 {
			t.Errorf("differs: %.200v", found[0])
		}
		return err
	})
}

// ReadTar does not keep the attributes of folders, 30 MB here, and not their paths, 20 MB here.
func TestMemoryForFolders(t *testing.T) {
	dir := scratch.Mount(t, "xfs", scratch.XFS)
	src, dst := mkdir(t, dir, "src"), mkdir(t, dir, "dst")
	for i := range 500 {
		sub := filepath.Join(src.Name(), fmt.Sprint("a", i))
		require.NoError(t, os.Mkdir(sub, 0o755))
		require.NoError(t, unix.Setxattr(sub, "user.large", make([]byte, 60_000), 0))
	}
	at := plantDeep(t, src, 400)
	for i := range 200 { // so that the use is measured at the end
		require.NoError(t, unix.Mknodat(at, fmt.Sprint("f", i), unix.S_IFREG|0o600, 0))
	}
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(WriteTar(t.Context(), src, w)) }()
	wantSmall(t, "ReadTar", func(ctx context.Context) error { return ReadTar(ctx, r, dst) })
	wantEqual(t, src, dst)
}

// What only counts or removes names never holds all names of a folder, 15 MB here.
func TestMemoryForNames(t *testing.T) {
	top := openDir(t, scratch.Mount(t, "xfs", scratch.XFS))
	dir := mkdir(t, top.Name(), "flat")
	require.NoError(t, unix.Mknodat(int(dir.Fd()), "f", unix.S_IFREG|0o600, 0))
	require.NoError(t, unix.Setxattr(filepath.Join(dir.Name(), "f"), "user.large", make([]byte, 60_000), 0)) // is read once
	for i := range 60_000 {
		require.NoError(t, unix.Linkat(int(dir.Fd()), "f", int(dir.Fd()), fmt.Sprintf("%0240d", i), 0))
	}
	wantSmall(t, "SurveyTree", func(ctx context.Context) error {
		s, err := SurveyTree(ctx, dir)
		if s.Names != 60_001 {
			t.Errorf("surveyed %d", s.Names)
		}
		return err
	})
	wantSmall(t, "Remove", func(ctx context.Context) error { return Remove(ctx, top, "flat") })
	if got := listing(t, top.Name()); slices.Contains(got, "flat") {
		t.Errorf("left %q", got)
	}
}
