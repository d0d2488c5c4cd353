package zfs_test

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/zfs"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
)

// label returns the description of a zpool in the label of a device: an nvlist in XDR with the string "name".
func label(name string) string {
	number := func(n int) string { return string(binary.BigEndian.AppendUint32(nil, uint32(n))) }
	text := func(s string) string { return number(len(s)) + s + strings.Repeat("\x00", (4-len(s)%4)%4) }
	pair := text("name") + number(9) + number(1) + text(name) // of type string, with one element
	return "\x01\x01\x00\x00" + number(0) + number(1) + number(8+len(pair)) + number(0) + pair
}

// Devices of different pools are refused unless the caller says which pool it means: one of them would be opened.
func TestDevicesOfDifferentPools(t *testing.T) {
	var devices []string
	for range 3 {
		device := scratch.Disk(t, diskSize)
		put(t, device, 16<<10, label("drover-"+uuid.NewString()))
		devices = append(devices, device)
	}
	for range 5 {
		var ran []string
		cfg := backends.Config{Name: "test", Devices: devices, Mount: t.TempDir()}
		cfg.Path = cfg.Mount
		_, err := zfs.New(run.Func(func(_ context.Context, r run.Command) (run.Result, error) {
			ran = append(ran, r.Name+" "+strings.Join(r.Args, " "))
			return run.Result{}, errors.New("no")
		}), clock.System{}).Open(t.Context(), cfg)
		if dataset.KindOf(err) != dataset.ErrConflict || len(ran) != 0 {
			t.Errorf("%v, ran %q", err, ran)
		}
	}
}
