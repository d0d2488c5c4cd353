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
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

const diskSize = 12 << 20

// An interrupted attempt to make a pool on devices leaves only what a repetition of the command removes. Similar
// remains with content, or without Drover's mark, are refused.
func TestPoolOnDevicesIsMadeAgain(t *testing.T) {
	for name, c := range map[string]struct {
		cut     func(t *testing.T, device string) // makes the remains of the crash on the last device
		refused bool
	}{
		"before anything was made": {func(*testing.T, string) {}, false},
		"with empty partitions":    {partition, false},
		"with a torn table": {func(t *testing.T, device string) {
			partition(t, device)
			put(t, device, 512, strings.Repeat("\x00", 512))
		}, false},
		"with one table": {func(t *testing.T, device string) {
			partition(t, device)
			put(t, device, diskSize-24<<10, strings.Repeat("\x00", 24<<10))
		}, false},
		"with tables for sectors of 4 KiB": {func(t *testing.T, device string) {
			put(t, device, 450, "\xee")
			put(t, device, 510, "\x55\xaa")
			tables(t, device, 4096)
		}, false},
		"with an empty table": {func(t *testing.T, device string) {
			partition(t, device)
			put(t, device, 1024, strings.Repeat("\x00", 16<<10))
			put(t, device, diskSize-33*512, strings.Repeat("\x00", 16<<10))
		}, true},
		"with a partition more": {
			func(t *testing.T, device string) { partition(t, device); put(t, device, 1024+128, "\xaf\x3d\xc6\x0f") },
			true,
		},
		"with a boot sector": {
			func(t *testing.T, device string) { partition(t, device); put(t, device, 0, "\xeb\x63\x90") }, true,
		},
		"with an MBR": {
			func(t *testing.T, device string) { put(t, device, 450, "\x83"); put(t, device, 510, "\x55\xaa") }, true,
		},
		"with LVM's label": {func(t *testing.T, device string) { put(t, device, 512, "LABELONE") }, true},
		"with swap space":  {func(t *testing.T, device string) { put(t, device, 4096-10, "SWAPSPACE2") }, true},
		"with a RAID's mark": {
			func(t *testing.T, device string) { put(t, device, 4096, "\xfc\x4e\x2b\xa9") }, true,
		},
		"with one at the end": {
			func(t *testing.T, device string) { put(t, device, diskSize-8192, "\xfc\x4e\x2b\xa9") }, true,
		},
		"with something in them": {
			func(t *testing.T, device string) { partition(t, device); put(t, device, 6<<20, "precious") }, true,
		},
		"with others' partitions": {func(t *testing.T, device string) {
			put(t, device, 640<<10, strings.Repeat("\x00", 64))
			partition(t, device)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			devices := []string{scratch.Disk(t, diskSize), scratch.Disk(t, diskSize)}
			cfg := backends.Config{ID: uuid.New(), Name: "test", Devices: devices, Mount: t.TempDir(), Make: true}
			cfg.Path = cfg.Mount
			made := func(do func()) (err error) {
				defer func() {
					if recover() != nil {
						err = errCrash
					}
				}()
				_, err = zfs.New(fakes.Run(func(_ context.Context, r run.Command) (run.Result, error) {
					if filepath.Base(r.Name) == "zpool" && r.Args[0] == "create" {
						do()
					}
					panic(errCrash) // no command follows
				}), clock.System{}).Open(t.Context(), cfg)
				return err
			}
			require.ErrorIsf(t, made(func() { c.cut(t, devices[1]) }), errCrash, "the first try")
			before, again := sum(t, devices[1]), false
			err := made(func() {
				again = true
				for _, device := range devices { // except for the mark
					put(t, device, 640<<10, strings.Repeat("\x00", 64))
					assert.NoError(t, disk.CheckVacant(device))
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

// If zpool(8) fails, Drover removes its mark and the remains from the devices. Content that somebody else wrote
// meanwhile stays.
func TestPoolOnDevicesThatCannotBeMade(t *testing.T) {
	for name, c := range map[string]struct {
		do      func(t *testing.T, device string)
		content string // content of the first sectors afterwards
	}{
		"with nothing written":  {func(*testing.T, string) {}, ""},
		"with empty partitions": {partition, ""},
		"with another's label":  {func(t *testing.T, device string) { put(t, device, 512, "LABELONE") }, "LABELONE"},
	} {
		t.Run(name, func(t *testing.T) {
			device := scratch.Disk(t, diskSize)
			cfg := backends.Config{
				ID:      uuid.New(),
				Name:    "test",
				Devices: []string{device},
				Mount:   t.TempDir(),
				Make:    true,
			}
			cfg.Path = cfg.Mount
			failed := errors.New("no")
			_, err := zfs.New(fakes.Run(func(_ context.Context, r run.Command) (run.Result, error) {
				if filepath.Base(r.Name) == "zpool" && r.Args[0] == "create" {
					c.do(t, device)
				}
				return run.Result{}, failed
			}), clock.System{}).Open(t.Context(), cfg)
			require.ErrorIs(t, err, failed)
			if got, err := os.ReadFile(device); err != nil || strings.Trim(string(got), "\x00") != c.content {
				t.Errorf("left on the device: %.100q, %v", strings.Trim(string(got), "\x00"), err)
			}
		})
	}
}

// partition writes partition tables to both ends of a disk, as zpool(8) does on a whole disk before it writes a label.
func partition(t *testing.T, device string) {
	t.Helper()
	put(t, device, 450, "\xee")
	put(t, device, 510, "\x55\xaa")
	tables(t, device, 512)
}

func tables(t *testing.T, device string, sector int64) {
	t.Helper()
	const reserved = 8 * 128
	for _, array := range []int64{2 * sector, diskSize - sector - 16<<10} {
		put(t, device, array, "\xc3\x8c\x89\x6a\xd2\x1d\xb2\x11\x99\xa6\x08\x00\x20\x73\x66\x31 unique, from, to")
		put(t, device, array+56, "z\x00f\x00s\x00-\x001\x00")
		put(t, device, array+reserved,
			"\x3b\x5a\x94\x6a\xd2\x1d\xb2\x11\x99\xa6\x08\x00\x20\x73\x66\x31 unique, from, to")
	}
	put(t, device, sector, "EFI PART")
	put(t, device, diskSize-sector, "EFI PART")
}

func put(t *testing.T, device string, at int64, text string) {
	t.Helper()
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt([]byte(text), at)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	require.NoError(t, err)
}

func sum(t *testing.T, device string) string {
	t.Helper()
	f, err := os.Open(device)
	require.NoError(t, err)
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	require.NoError(t, err)
	return string(h.Sum(nil))
}
