package verification

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends/verify"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) {
	if at := os.Getenv("DROVER_FROZEN_IN"); at != "" {
		freezes(at)
	}
	os.Exit(scratch.Main(m))
}

// freezes acts as a suite that has frozen a filesystem, and waits to write to it.
func freezes(sandbox string) {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	image, at := filepath.Join(sandbox, "001", "img"), filepath.Join(sandbox, "001", "mnt")
	dev, err := loopdev.Attach(context.Background(), image, loopdev.Options{BlockSize: 4096})
	must(err)
	must(os.Mkdir(at, 0o700))
	must(mount.Mount(at, mount.Spec{Source: dev.Path, FSType: "ext4"}))
	root, err := os.Open(at)
	must(err)
	must(fsctl.Freeze(root))
	go func() { _ = os.WriteFile(filepath.Join(at, "file"), nil, 0o600) }()
	time.Sleep(100 * time.Millisecond) // until it waits
	must(json.NewEncoder(os.Stdout).Encode(verify.Event{Begins: "frozen"}))
	time.Sleep(time.Hour)
}

// When a suite is killed, the filesystems that it has frozen are thawed. Otherwise a thread that waits to write would
// never end, and its mount and device would remain.
func TestEndedWhileFrozen(t *testing.T) {
	sandbox := filepath.Join(t.TempDir(), "drover-verify-"+uuid.NewString())
	require.NoError(t, os.MkdirAll(filepath.Join(sandbox, "001"), 0o700))
	require.NoError(t, os.Rename(scratch.Image(t, "ext4", scratch.Ext4), filepath.Join(sandbox, "001", "img")))
	t.Setenv("DROVER_FROZEN_IN", sandbox)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	frozen := false
	err := Start(ctx, nil, sandbox, func(e verify.Event) error {
		frozen = e.Begins == "frozen"
		cancel()
		return nil
	})
	if !frozen || !errors.Is(err, dataset.ErrCancelled) {
		t.Errorf("frozen: %t; it ended with %v", frozen, err)
	}
	for range 200 {
		loops, err := loopdev.List()
		require.NoError(t, err)
		left := false
		for _, l := range loops {
			left = left || strings.Contains(l.Backing, filepath.Base(sandbox))
		}
		if !left {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Error("its device is left")
}

// The mounts that the commands need stay, including that of LVM's locks. Without the locks, LVM would write at the same
// time as other processes.
func TestNeeded(t *testing.T) {
	const path = "/pools/fast/drover-verify-x"
	for point, want := range map[string]bool{
		"/": true, "/pools": true, "/pools/fast": true, "/run": true, "/run/lock": true, "/usr": true, "/lib64": true, "/dev/shm": true,
		"/pools/slow": false, "/run/user/0": false, "/home": false, "/pools/fast/drover-verify-x/y": false, "/var/lib/docker": false,
	} {
		if got := isNeeded(point, path); got != want {
			t.Errorf("%s: %t", point, got)
		}
	}
}
