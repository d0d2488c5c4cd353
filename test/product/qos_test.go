package product

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"

	"github.com/droverhq/drover/internal/iolimit"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/internal/mount"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
)

const qosProfiles = `
default: slow
profiles:
  slow: {size: 512MiB, qos: {write_bps: 5MiB}, on_delete: purge}
  ops: {size: 512MiB, qos: {read_iops: 100, write_iops: 100}, on_delete: purge}
  faster: {size: 512MiB, qos: {write_bps: 20MiB}, on_delete: purge}
  free: {size: 512MiB, on_delete: purge}
  strict: {size: 512MiB, qos: {write_bps: 5MiB, strict: true}, on_delete: purge}
  frozen: {size: 512MiB, qos: {write_bps: 5MiB}, quiesce: freeze, on_delete: purge}
`

// limits are the rules on a device, by group, but for those of groups that have none.
type limits map[string]iolimit.Limits

func hierarchy(t *testing.T) iolimit.Hierarchy {
	t.Helper()
	table, err := mount.Table()
	if err != nil {
		t.Fatal(err)
	}
	h, err := iolimit.Detect(table)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (w *world) limitsOn(t *testing.T, dev iolimit.Device, containers ...string) limits {
	t.Helper()
	h, found := hierarchy(t), limits{}
	groups := map[string]string{"root": iolimit.Root}
	for _, c := range containers {
		pid, err := strconv.Atoi(w.docker(t, "inspect", "--format", "{{.State.Pid}}", c))
		if err != nil {
			t.Fatal(err)
		}
		g, ok := h.GroupOf(pid)
		if !ok {
			t.Fatalf("container %s has no group", c)
		}
		groups[c] = g
	}
	for name, g := range groups {
		l, err := h.Get(g, dev)
		if err != nil {
			t.Fatal(err)
		}
		if l != (iolimit.Limits{}) {
			found[name] = l
		}
	}
	return found
}

// device is what a volume that is mounted lies on.
func (w *world) device(t *testing.T, volume string) iolimit.Device {
	t.Helper()
	d, is, err := iolimit.DeviceOf(w.inspect(t, volume).Mountpoint)
	if err != nil || !is {
		t.Fatal(is, err)
	}
	return d
}

// wantLimits waits until exactly these rules are there, of the root group and of those of
// all containers named.
func (w *world) wantLimits(t *testing.T, dev iolimit.Device, l iolimit.Limits, containers ...string) {
	t.Helper()
	await(t, "limits", func() error {
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

// TestQoS: who uses a volume is held to what its profile says then, for as long and no longer.
func TestQoS(t *testing.T) {
	w := begin(t, host.Options{Profiles: qosProfiles}, engine.Options{})
	slow, faster := iolimit.Limits{WriteBPS: 5 << 20}, iolimit.Limits{WriteBPS: 20 << 20}
	r := w.e.Docker(t, "volume", "create", "-d", w.h.Driver, "db@strict")
	if r.Exit == 0 || !strings.Contains(r.Stderr, "pool default: its node has control groups of version 1") {
		t.Errorf("strict: %v", r)
	}
	w.run(t, "one", "db@slow")
	w.run(t, "free", "other@free")
	dev, other := w.device(t, "db@slow"), w.device(t, "other@free")
	w.wantLimits(t, dev, slow, "one")
	w.run(t, "two", "db@slow")
	w.wantLimits(t, dev, slow, "one", "two")
	w.wantLimits(t, other, iolimit.Limits{}, "free")

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
	if err := hierarchy(t).Clear(iolimit.Root, dev); err != nil {
		t.Fatal(err)
	}
	w.h.Up(t)
	w.wantLimits(t, dev, slow, "one", "two")

	w.drover(t, "snapshot", "create", "db")
	w.wantLimits(t, dev, slow, "one", "two")
	w.docker(t, "stop", "one")
	w.wantLimits(t, dev, slow, "two")
	w.docker(t, "stop", "two", "free")
	w.wantLimits(t, dev, iolimit.Limits{})
}

// A container that writes as fast as it can is held to what the volume may.
func TestQoSHolds(t *testing.T) {
	long.Only(t)
	w := begin(t, host.Options{Profiles: qosProfiles}, engine.Options{})
	for name, write := range map[string]string{
		"direct":   "dd if=/dev/zero of=/data/f bs=1M count=60 oflag=direct",
		"buffered": "dd if=/dev/zero of=/data/f bs=1M count=60 conv=fsync",
	} {
		out := w.once(t, name+"@slow", "sleep 2; cut -d' ' -f1 /proc/uptime; "+write+" 2>/dev/null; cut -d' ' -f1 /proc/uptime")
		f := strings.Fields(out)
		from, err1 := strconv.ParseFloat(f[0], 64)
		to, err2 := strconv.ParseFloat(f[1], 64)
		if err1 != nil || err2 != nil {
			t.Fatal(out)
		}
		t.Logf("%s: 60 MiB in %.2f s", name, to-from)
		if to-from < 10.8 || to-from > 13.2 {
			t.Errorf("%s: 60 MiB took %.2f s, want 12", name, to-from)
		}
	}
}
