//go:build lab

package throttle_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/iolimit"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// wrote is the result of a program that wrote in a separate control group.
type wrote struct {
	memory, disk time.Duration // until write(2) was done, and fsync(2) after it
	group        float64       // MiB that were written to the device for the group
	device       float64       // MiB that were written to the device in total
}

func (w wrote) took() time.Duration { return w.memory + w.disk }

// dd writes in a new control group, as the container of an engine has one. The program is in the group from its
// start.
func dd(t *testing.T, dev iolimit.Device, group, file string, mebibytes int, how string) (w wrote) {
	t.Helper()
	dir := filepath.Join("/sys/fs/cgroup", group)
	require.NoError(t, os.Mkdir(dir, 0o755))
	defer os.Remove(dir) //nolint:errcheck // the machine ends soon
	before, ofGroup := written(t, dev), charged(t, dev)
	out, err := exec.Command("sh", "-c", `echo $$ >"$0/cgroup.procs" && date +%s.%N && dd if=/dev/zero of="$1" bs=1M count="$2" "$3" 2>/dev/null && date +%s.%N && sync "$1" && date +%s.%N`,
		dir, file, fmt.Sprint(mebibytes), how).Output()
	var at [3]float64
	if _, serr := fmt.Sscan(string(out), &at[0], &at[1], &at[2]); err != nil || serr != nil {
		t.Fatalf("%v, %v: %s", err, serr, out)
	}
	w.memory, w.disk = time.Duration((at[1]-at[0])*1e9), time.Duration((at[2]-at[1])*1e9)
	w.group = charged(t, dev) - ofGroup
	w.device = written(t, dev) - before
	return w
}

// charged returns how many MiB all groups below the group of engines wrote to a device.
func charged(t *testing.T, dev iolimit.Device) (n float64) {
	t.Helper()
	b, err := os.ReadFile("/sys/fs/cgroup/docker/io.stat")
	require.NoError(t, err)
	if said := regexp.MustCompile(`(?m)^` + dev.String() + ` .*wbytes=(\d+)`).FindSubmatch(b); said != nil {
		fmt.Sscan(string(said[1]), &n) //nolint:errcheck // 0 fails the test
	}
	return n / (1 << 20)
}

// written returns how many MiB were written to a device (Documentation/block/stat.rst).
func written(t *testing.T, dev iolimit.Device) float64 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/sys/dev/block", dev.String(), "stat"))
	require.NoError(t, err)
	var n [7]float64
	_, err = fmt.Sscan(string(b), &n[0], &n[1], &n[2], &n[3], &n[4], &n[5], &n[6])
	require.NoError(t, err)
	return n[6] / 2048
}

// dirty leaves 150 MiB, or most of them, in memory.
func dirty(t *testing.T, group, file string) {
	t.Helper()
	dir := filepath.Join("/sys/fs/cgroup", group)
	require.NoError(t, os.Mkdir(dir, 0o755))
	defer os.Remove(dir) //nolint:errcheck // the machine ends soon
	if out, err := exec.Command("sh", "-c", `echo $$ >"$0/cgroup.procs" && exec dd if=/dev/zero of="$1" bs=1M count=150 conv=notrunc`, dir, file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// handsDown makes the root group delegate controllers, or not, until the end of the test.
func handsDown(t *testing.T, what string) {
	t.Helper()
	const control = "/sys/fs/cgroup/cgroup.subtree_control"
	before, err := os.ReadFile(control)
	if err == nil {
		err = os.WriteFile(control, []byte(what), 0)
	}
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, os.WriteFile(control, []byte("+"+strings.Join(strings.Fields(string(before)), " +")), 0))
	})
}

// On version 2 a strict limit applies from the first moment, to all groups together and to delayed writes of the
// kernel. Other volumes have no limit, and a flush of the agent is not limited.
func TestQoSOnV2(t *testing.T) {
	handsDown(t, "-io -memory") // delayed writes are charged all the same: io makes the kernel keep memory
	f := agenttest.NewCluster(t, "loop", "dir")
	if v := f.A.Throttle.Hierarchy.Version; v != iolimit.V2 {
		t.Fatalf("version %d", v)
	}
	d := f.A.NewVolume("db@strict", nil)
	path := f.A.MustMount("db", "one") // this delegates the controller
	f.A.NewVolume("other@free", nil)
	other := f.A.MustMount("other", "two")
	free, _, err := iolimit.DeviceOf(other)
	require.NoError(t, err)
	for _, how := range []string{"oflag=direct", "conv=notrunc"} {
		w := dd(t, free, "docker/free", filepath.Join(other, how), 30, how)
		t.Logf("no limit, %s: 30 MiB in %.2f + %.2f s, %.2f MiB by the group, %.2f by the device", how, w.memory.Seconds(), w.disk.Seconds(), w.group, w.device)
	}
	f.A.MustUnmount("other", "two")

	dev := device(f.A, d)
	// The machine is slow, and may be slower than the limit: case SpeedIsLimited of the suite checks the other bound. All writes
	// count, once, for the group that wrote them.
	want := func(what string, w wrote) {
		t.Helper()
		due := w.group / 5
		t.Logf("%s: 30 MiB in %.2f + %.2f s, %.2f MiB by the group, %.2f by the device: %.2f s are due", what, w.memory.Seconds(), w.disk.Seconds(), w.group, w.device, due)
		if w.group < 30 || w.group > 31.5 || w.took().Seconds() < 0.9*due {
			t.Errorf("%s: %.2f MiB took %.2f s, want %.1f", what, w.group, w.took().Seconds(), due)
		}
	}
	for range 2 {
		want("O_DIRECT", dd(t, dev, "docker/direct", filepath.Join(path, "f"), 30, "oflag=direct"))
		want("buffered and fsync", dd(t, dev, "docker/buffered", filepath.Join(path, "g"), 30, "conv=notrunc"))
	}
	var wg sync.WaitGroup
	began := time.Now()
	for _, name := range []string{"a", "b"} {
		wg.Go(func() { dd(t, dev, "docker/"+name, filepath.Join(path, name), 15, "oflag=direct") })
	}
	wg.Wait()
	took := time.Since(began)
	t.Logf("two together: 30 MiB in %.2f s", took.Seconds())
	if took < 5400*time.Millisecond {
		t.Errorf("two together: 30 MiB took %s, want 6 s", took)
	}

	dirty(t, "docker/dirty", filepath.Join(path, "dirty"))
	if _, err := f.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "db", Profile: "frozen"}); err != nil {
		t.Fatal(err)
	}
	f.AwaitNamed("profile", func() bool { d, _ := f.A.Cache.Dataset(d.ID); return d.Profile.Name == "frozen" })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	began = time.Now()
	if err := f.A.Perform(ctx, api.Request{Kind: dataset.OpSnapshot, Volume: "db"}); err != nil && !strings.Contains(err.Error(), "block its writers for") {
		t.Errorf("snapshot with 150 MiB dirty: %v", err)
	}
	t.Logf("snapshot with up to 150 MiB dirty: %.2f s", time.Since(began).Seconds())
	dirty(t, "docker/dirty", filepath.Join(path, "dirty"))
	began = time.Now()
	f.A.MustUnmount("db", "one")
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("unmount with 150 MiB dirty: %s", took)
	}
	t.Logf("unmount with up to 150 MiB dirty: %.2f s", time.Since(began).Seconds())
}
