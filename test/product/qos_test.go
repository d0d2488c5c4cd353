package product

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/linux/iolimit"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
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

// timed runs a command in a new container, two seconds after the container's start, and returns the duration of the
// command.
func (w *world) timed(t *testing.T, volume, command string) time.Duration {
	t.Helper()
	out := w.once(t, volume, "sleep 2; cut -d' ' -f1 /proc/uptime; "+command+" 2>/dev/null; cut -d' ' -f1 /proc/uptime")
	f := strings.Fields(out)
	if len(f) != 2 {
		t.Fatal(out)
	}
	from, err1 := strconv.ParseFloat(f[0], 64)
	to, err2 := strconv.ParseFloat(f[1], 64)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return time.Duration((to - from) * float64(time.Second))
}

// A container that writes as fast as it can is limited to the rate of the volume.
func TestQoSHolds(t *testing.T) {
	long.Only(t)
	w := begin(t, host.Options{Profiles: qosProfiles}, engine.Options{})
	for name, write := range map[string]string{
		"direct":   "dd if=/dev/zero of=/data/f bs=1M count=60 oflag=direct",
		"buffered": "dd if=/dev/zero of=/data/f bs=1M count=60 conv=fsync",
	} {
		// It never exceeds the limit. Other work on the machine makes it slower.
		free, best := 0.0, math.Inf(1)
		for range 3 {
			free = max(free, w.timed(t, "free@free", write).Seconds())
			took := w.timed(t, name+"@slow", write).Seconds()
			t.Logf("%s: 60 MiB in %.2f s (in %.2f s without a limit)", name, took, free)
			if took < 10.8 {
				t.Errorf("%s: 60 MiB took %.2f s, want 12", name, took)
			}
			if best = min(best, took); best <= 13.2 {
				break
			}
		}
		if best > 13.2 && free < 2.4 {
			t.Errorf("%s: 60 MiB took %.2f s at best, want 12", name, best)
		}
	}
}

// Operations are limited as well, and another volume is as fast as before.
func TestQoSOperations(t *testing.T) {
	long.Only(t)
	w := begin(t, host.Options{Profiles: qosProfiles}, engine.Options{})
	for _, kind := range []string{"randread", "randwrite"} {
		free, best := math.Inf(1), 0.0
		for range 3 {
			free = min(free, w.fio(t, "other@free", kind))
			iops := w.fio(t, "ops@ops", kind)
			t.Logf("%s: %.1f IOPS (%.0f without a limit)", kind, iops, free)
			if iops > 110 {
				t.Errorf("%s: %.1f IOPS, want 100", kind, iops)
			}
			if best = max(best, iops); best >= 90 {
				break
			}
		}
		if best < 90 && free > 500 {
			t.Errorf("%s: %.1f IOPS at best, want 100", kind, best)
		}
	}
	// With a limited neighbour that writes, and without one. The best result of each shows what the machine can do.
	var alone, beside float64
	for range 6 {
		alone = max(alone, w.fio(t, "other@free", "randwrite"))
		w.command(t, "busy", "slow@slow", "while :; do dd if=/dev/zero of=/data/f bs=1M count=60 oflag=direct; done")
		beside = max(beside, w.fio(t, "other@free", "randwrite"))
		w.docker(t, "rm", "-f", "busy")
		t.Logf("another volume: %.0f IOPS alone, %.0f beside one that is limited", alone, beside)
		if beside >= 0.95*alone {
			return
		}
	}
	t.Errorf("another volume keeps %.2f of its speed", beside/alone)
}

// fio returns the operations per second of a container on a volume for some seconds, beginning two seconds after the
// container's start.
func (w *world) fio(t *testing.T, volume, kind string) float64 {
	t.Helper()
	// The fio of the machine, with its many libraries.
	out := w.docker(t, "run", "--rm", "--volume", volume+":/data", "--volume-driver", w.h.Driver, "--volume", "/usr:/usr:ro", "--entrypoint", "sh", image, "-c",
		"sleep 2; exec fio --name=x --filename=/data/fio --rw="+kind+" --bs=16k --direct=1 --ioengine=psync --size=16M --time_based --runtime=5 --output-format=json")
	var found struct {
		Jobs []struct{ Read, Write struct{ IOPS float64 } }
	}
	_, figures, _ := strings.Cut(out, "{") // the lines before it are warnings
	if err := json.Unmarshal([]byte("{"+figures), &found); err != nil || len(found.Jobs) != 1 {
		t.Fatalf("%v: %s", err, out)
	}
	return found.Jobs[0].Read.IOPS + found.Jobs[0].Write.IOPS
}

// 200 MiB of dirty data, with a limit of 5 MiB a second, block neither a snapshot nor a stop, and hardly the writers.
func TestQoSFlush(t *testing.T) {
	long.Only(t)
	w := begin(t, host.Options{Profiles: qosProfiles}, engine.Options{})
	const mebibytes = 200
	for _, profile := range []string{"slow", "frozen"} {
		name := "db-" + profile
		w.command(t, name, name+"@"+profile, "while :; do cut -d' ' -f1 /proc/uptime >>/data/log; sleep 0.01; done")
		dev := w.device(t, name+"@"+profile)
		w.wantLimits(t, dev, iolimit.Limits{WriteBPS: 5 << 20}, name)
		dirty := []string{"exec", name, "dd", "if=/dev/zero", "of=/data/f", "bs=1M", fmt.Sprintf("count=%d", mebibytes)}
		w.docker(t, dirty...)
		began := time.Now()
		w.drover(t, "snapshot", "create", name)
		t.Logf("%s: snapshot with %d MiB dirty: %.2f s", profile, mebibytes, time.Since(began).Seconds())
		w.wantLimits(t, dev, iolimit.Limits{WriteBPS: 5 << 20}, name)
		w.awaitMore(t, name, "/data/log")
		gap := 0.0
		last := 0.0
		for _, line := range w.lines(t, name, "/data/log") {
			at, err := strconv.ParseFloat(line, 64)
			if err != nil {
				t.Fatal(err)
			}
			if last > 0 {
				gap = max(gap, at-last)
			}
			last = at
		}
		t.Logf("%s: the writer was held up for %.2f s", profile, gap)
		if gap > 2 {
			t.Errorf("%s: the writer was held up for %.2f s", profile, gap)
		}
		w.docker(t, dirty...)
		began = time.Now()
		w.docker(t, "stop", name)
		took := time.Since(began)
		t.Logf("%s: stop with %d MiB dirty: %.2f s", profile, mebibytes, took.Seconds())
		if took > 20*time.Second { // 40 s if the limit is not lifted
			t.Errorf("%s: docker stop with %d MiB dirty took %s", profile, mebibytes, took)
		}
		w.wantLimits(t, dev, iolimit.Limits{})
	}
}
