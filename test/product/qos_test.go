package product

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/linux/iolimit"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

const qosProfiles = `
default: slow
profiles:
  slow: {size: 512MiB, qos: {write_bps: 5MiB}, quiesce: flush, on_delete: purge}
  ops: {size: 512MiB, qos: {read_iops: 100, write_iops: 100}, on_delete: purge}
  faster: {size: 512MiB, qos: {write_bps: 20MiB}, on_delete: purge}
  free: {size: 512MiB, on_delete: purge}
  strict: {size: 512MiB, qos: {write_bps: 5MiB, strict: true}, on_delete: purge}
  frozen: {size: 512MiB, qos: {write_bps: 5MiB}, on_delete: purge}
`

// limits are the rules for a device by group, without groups that have none.
type limits map[string]iolimit.Limits

func hierarchy(t *testing.T) iolimit.Hierarchy {
	t.Helper()
	table, err := mount.Table()
	require.NoError(t, err)
	h, err := iolimit.Detect(table)
	require.NoError(t, err)
	return h
}

func (w *world) limitsOn(t *testing.T, dev iolimit.Device, containers ...string) limits {
	t.Helper()
	h, found := hierarchy(t), limits{}
	groups := map[string]string{"root": iolimit.Root}
	for _, c := range containers {
		pid, err := strconv.Atoi(w.docker(t, "inspect", "--format", "{{.State.Pid}}", c))
		require.NoError(t, err)
		g, ok := h.GroupOf(pid)
		if !ok {
			t.Fatalf("container %s has no group", c)
		}
		groups[c] = g
	}
	for name, g := range groups {
		l, err := h.Get(g, dev)
		require.NoError(t, err)
		if l != (iolimit.Limits{}) {
			found[name] = l
		}
	}
	return found
}

// device returns the device of a mounted volume.
func (w *world) device(t *testing.T, volume string) iolimit.Device {
	t.Helper()
	d, is, err := iolimit.DeviceOf(w.inspect(t, volume).Mountpoint)
	if err != nil || !is {
		t.Fatal(is, err)
	}
	return d
}

// wantLimits waits until exactly these rules exist, in the root group and in those of all named containers.
func (w *world) wantLimits(t *testing.T, dev iolimit.Device, l iolimit.Limits, containers ...string) {
	t.Helper()
	host.Await(t, "limits", func() error {
		got, want := w.limitsOn(t, dev, containers...), limits{}
		if l != (iolimit.Limits{}) {
			want["root"] = l
			for _, c := range containers {
				want[c] = l
			}
		}
		if !maps.Equal(got, want) {
			return fmt.Errorf("%+v, want %+v", got, want)
		}
		return nil
	})
}

// TestQoS: containers that use a volume are limited as its profile says at that time, and only while they use it.
func TestQoS(t *testing.T) {
	w := begin(t, host.Options{Profiles: qosProfiles}, engine.Options{})
	slow, faster := iolimit.Limits{WriteBPS: 5 << 20}, iolimit.Limits{WriteBPS: 20 << 20}
	r := w.e.Docker(t, "volume", "create", "-d", w.h.Driver, "db@strict")
	if r.Exit == 0 || !strings.Contains(r.Stderr, "pool default cannot satisfy profile strict: its node has control groups of version 1") {
		t.Errorf("strict: %v", r)
	}
	w.run(t, "one", "db@slow")
	w.run(t, "free", "other@free")
	dev, other := w.device(t, "db@slow"), w.device(t, "other@free")
	w.wantLimits(t, dev, slow, "one")
	w.run(t, "two", "db@slow")
	w.wantLimits(t, dev, slow, "one", "two")
	w.wantLimits(t, other, iolimit.Limits{}, "free")
	// No container ever exceeds its limit. Without a limit it is faster, unless the machine is busy.
	seconds := func(container string) float64 {
		began := time.Now()
		w.docker(t, "exec", container, "dd", "if=/dev/zero", "of=/data/f", "bs=1M", "count=10", "oflag=direct")
		return time.Since(began).Seconds()
	}
	held, free := seconds("one"), seconds("free")
	t.Logf("10 MiB in %.2f s at 5 MiB/s, in %.2f s without a limit", held, free)
	if held < 1.8 {
		t.Errorf("10 MiB took %.2f s at 5 MiB/s", held)
	}

	w.drover(t, "volume", "set-profile", "db", "faster")
	w.wantLimits(t, dev, faster, "one", "two")
	if out := w.drover(t, "volume", "inspect", "db"); !strings.Contains(out, "write 20MiB/s") {
		t.Errorf("inspect does not tell the limit:\n%s", out)
	}
	w.drover(t, "volume", "set-profile", "db", "free")
	w.wantLimits(t, dev, iolimit.Limits{}, "one", "two")
	w.drover(t, "volume", "set-profile", "db", "slow")
	w.wantLimits(t, dev, slow, "one", "two")

	w.h.Stop(t)
	w.wantLimits(t, dev, slow, "one", "two")
	require.NoError(t, hierarchy(t).Clear(iolimit.Root, dev))
	w.h.Up(t)
	w.wantLimits(t, dev, slow, "one", "two")

	w.drover(t, "snapshot", "create", "db")
	w.wantLimits(t, dev, slow, "one", "two")
	w.docker(t, "stop", "one")
	w.wantLimits(t, dev, slow, "two")
	w.docker(t, "stop", "two", "free")
	w.wantLimits(t, dev, iolimit.Limits{})
}
