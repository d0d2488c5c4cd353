package loopdev_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// With the option Sole, a file with two names is refused. Attach waits for a file that another caller has claimed.
func TestSoleAndClaimed(t *testing.T) {
	file := scratch.Image(t, "", mib)
	hard := filepath.Join(filepath.Dir(file), "hard")
	require.NoError(t, os.Link(file, hard))
	if _, err := loopdev.Attach(t.Context(), file, loopdev.Options{Sole: true}); !errors.Is(err, loopdev.ErrShared) {
		t.Errorf("got %v", err)
	}
	if info, ok := find(t, file); ok {
		t.Errorf("left behind: %+v", info)
	}
	require.NoError(t, os.Remove(hard))
	f, err := os.Open(file)
	require.NoError(t, err)
	require.NoError(t, loopdev.Claim(t.Context(), f))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := loopdev.Attach(ctx, file, loopdev.Options{Sole: true}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("claimed: %v", err)
	}
	f.Close()
	d := attach(t, file, loopdev.Options{Sole: true})
	if fi, err := os.Stat(file); err != nil || fi.Sys().(*syscall.Stat_t).Ino != d.Inode {
		t.Errorf("inode %d, %v", d.Inode, err)
	}
	if f, err = os.Open(file); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := loopdev.Claim(t.Context(), f); !errors.Is(err, loopdev.ErrAttached) {
		t.Errorf("attached: %v", err)
	}
}
