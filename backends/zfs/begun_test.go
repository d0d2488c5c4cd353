package zfs_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/disk"
	"github.com/droverhq/drover/backends/zfs"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
)

const diskSize = 40 << 20

// A try to make a pool on devices that is cut short leaves no more than the same command takes
// off again. What looks like it and holds something, or is not Drover's, is refused.
func TestPoolOnDevicesIsMadeAgain(t *testing.T) {
	for name, c := range map[string]struct {
		cut     func(t *testing.T, device string) // what the crash leaves, of the last device
		refused bool
	}{
		"before anything was made": {func(*testing.T, string) {}, false},
		"with empty partitions":    {partition, false},
		"with a torn table": {func(t *testing.T, device string) {
			partition(t, device)
			put(t, device, 512, strings.Repeat("\x00", 512))
		}, false},
		"with something in them": {func(t *testing.T, device string) { partition(t, device); put(t, device, 20<<20, "precious") }, true},
		"with others' partitions": {func(t *testing.T, device string) {
			put(t, device, 640<<10, strings.Repeat("\x00", 64))
			partition(t, device)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			devices := []string{scratch.Disk(t, diskSize), scratch.Disk(t, diskSize)}
			cfg := backends.Config{ID: uuid.New(), Name: "test", Devices: devices, Mount: t.TempDir(), Make: true}
			cfg.Path = cfg.Mount
			made := func(do func()) error {
				_, err := zfs.New(run.Func(func(_ context.Context, r run.Command) (run.Result, error) {
					if filepath.Base(r.Name) == "zpool" && r.Args[0] == "create" {
						do()
					}
					return run.Result{}, errCrash
				}), clock.System{}).Open(t.Context(), cfg)
				return err
			}
			if err := made(func() { c.cut(t, devices[1]) }); !errors.Is(err, errCrash) {
				t.Fatalf("the first try: %v", err)
			}
			before, again := sum(t, devices[1]), false
			err := made(func() {
				again = true
				for _, device := range devices { // but for the mark
					put(t, device, 640<<10, strings.Repeat("\x00", 64))
					if err := disk.Vacant(device); err != nil {
						t.Error(err)
					}
				}
			})
			if c.refused && (!errors.Is(err, dataset.ErrExists) || again || sum(t, devices[1]) != before) {
				t.Errorf("it was touched: %v, %v", again, err)
			}
			if !c.refused && (!errors.Is(err, errCrash) || !again) {
				t.Errorf("the same command: %v", err)
			}
		})
	}
}

// partition does what zpool(8) does to a whole disk before it puts a label on it: tables of
// partitions at both ends.
func partition(t *testing.T, device string) {
	t.Helper()
	put(t, device, 510, "\x55\xaaEFI PART")
	put(t, device, 1024, "an entry")
	put(t, device, diskSize-33*512, "an entry")
	put(t, device, diskSize-512, "EFI PART")
}

func put(t *testing.T, device string, at int64, text string) {
	t.Helper()
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt([]byte(text), at)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func sum(t *testing.T, device string) string {
	t.Helper()
	f, err := os.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return string(h.Sum(nil))
}
