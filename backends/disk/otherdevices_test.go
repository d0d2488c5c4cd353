package disk_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// A pool is created and found while a mounted device of somebody else answers no reads: its image is on a filesystem
// that was frozen.
func TestDeviceOfOthersIsNotRead(t *testing.T) {
	image := filepath.Join(scratch.Mount(t, "xfs", size), "image")
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, 100<<20))
	scratch.Format(t, "ext4", image)
	stranger := scratch.MountImage(t, "ext4", image)
	table, err := mount.Table()
	require.NoError(t, err)
	lower, err := os.Open(filepath.Dir(image))
	require.NoError(t, err)
	defer lower.Close()
	require.NoError(t, fsctl.Freeze(lower))
	written := make(chan error, 1)
	go func() { written <- writeThrough(filepath.Join(stranger, "file")) }()
	defer func() {
		assert.NoError(t, <-written)
	}()
	defer scratch.Thaw(lower.Name())
	inFlight := filepath.Join("/sys/block", filepath.Base(table.At(stranger).Source), "inflight")
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if text, err := os.ReadFile(inFlight); err != nil || time.Now().After(end) {
			t.Fatalf("nothing is written: %q, %v", text, err)
		} else if fields := strings.Fields(string(text)); fields[1] != "0" {
			break
		}
	}
	r := rig{t, loop.New(&run.System{}), filepath.Join(t.TempDir(), "pool")}
	disk := scratch.Disk(t, size)
	opened := make(chan error, 1)
	go func() {
		p, err := r.kind.Open(t.Context(), r.config(uuid.Nil, true, disk))
		if err == nil {
			err = p.Close()
		}
		if err == nil {
			p, err = r.kind.Open(t.Context(), r.config(uuid.Nil, false, disk))
		}
		if err == nil {
			err = p.Close()
		}
		opened <- err
	}()
	select {
	case err = <-opened:
	case <-time.After(time.Minute):
		t.Error("it waits for the device of somebody else")
		scratch.Thaw(lower.Name())
		err = <-opened
	}
	assert.NoError(t, err)
}

// writeThrough writes a file to its device.
func writeThrough(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_SYNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(make([]byte, 4<<20))
	return err
}
