package loopdev_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// A device with disabled discards frees no blocks of its file. The next attached file gets a device that accepts
// discards, whether or not the number of the first device was removed.
func TestDisableDiscard(t *testing.T) {
	filled := func() string {
		file := scratch.Image(t, "", mib)
		require.NoError(t, os.WriteFile(file, bytes.Repeat([]byte("x"), mib), 0o600))
		return file
	}
	discard := func(d *loopdev.Device) error { return exec.Command("blkdiscard", d.Path).Run() }
	for _, remove := range []bool{true, false} {
		file := filled()
		d := attach(t, file, loopdev.Options{BlockSize: 4096})
		for range 2 {
			require.NoError(t, loopdev.DisableDiscard(d.Path))
		}
		if discard(d) == nil {
			t.Error("discarded all the same")
		}
		if data, err := os.ReadFile(file); err != nil || bytes.ContainsRune(data, 0) {
			t.Errorf("its file has lost bytes: %v", err)
		}
		if err := loopdev.Remove(d.Path); !errors.Is(err, unix.EBUSY) {
			t.Errorf("removed while it is in use: %v", err)
		}
		require.NoError(t, d.Close())
		if remove {
			for range 2 {
				if err := loopdev.Remove(d.Path); err != nil && !errors.Is(err, unix.EBUSY) { // another may take it
					t.Error(err)
				}
			}
		}
		if err := discard(attach(t, filled(), loopdev.Options{BlockSize: 4096})); err != nil {
			t.Errorf("the next device does not discard: %v", err)
		}
	}
	if err := loopdev.DisableDiscard("/dev/loop-that-is-none"); err == nil {
		t.Error("turned off on a device that is absent")
	}
}
