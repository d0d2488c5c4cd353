//go:build lab

package agent

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/iolimit"
)

// dd writes in a control group of its own, as an engine's container has one, from the first
// moment of that, and returns how long it says that it took.
func dd(t *testing.T, group, file string, mebibytes int, how string) time.Duration {
	t.Helper()
	dir := filepath.Join("/sys/fs/cgroup", group)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir) //nolint:errcheck // the machine ends soon
	out, err := exec.Command("sh", "-c", `echo $$ >"$0/cgroup.procs" && exec dd if=/dev/zero of="$1" bs=1M count="$2" "$3"`,
		dir, file, fmt.Sprint(mebibytes), how).CombinedOutput()
	said := regexp.MustCompile(`copied, ([0-9.]+) s`).FindSubmatch(out)
	if err != nil || said == nil {
		t.Fatalf("%v: %s", err, out)
	}
	took, err := time.ParseDuration(string(said[1]) + "s")
	if err != nil {
		t.Fatal(err)
	}
	return took
}

// On version 2 a limit that is strict holds from the first moment, for all together, and for
// what the kernel writes; other volumes have none, and a flush of the agent's own takes no
// part in it.
func TestQoSOnV2(t *testing.T) {
	f := newFlock(t, "loop", "dir")
	if v := f.a.limits.hierarchy.Version; v != iolimit.V2 {
		t.Fatalf("version %d", v)
	}
	d := f.a.volume("db@strict", nil)
	path := f.a.mounts("db", "one")
	// The machine is slow, and may be slower than the limit by itself: the other bound is far off.
	want := func(what string, took time.Duration, mebibytes int) {
		t.Helper()
		t.Logf("%s: %d MiB in %.2f s", what, mebibytes, took.Seconds())
		if due := float64(mebibytes) / 5; took.Seconds() < 0.9*due || took.Seconds() > 2*due {
			t.Errorf("%s: %d MiB took %.2f s, want %.1f", what, mebibytes, took.Seconds(), due)
		}
	}
	want("O_DIRECT", dd(t, "docker/direct", filepath.Join(path, "f"), 30, "oflag=direct"), 30)
	want("buffered and fsync", dd(t, "docker/buffered", filepath.Join(path, "g"), 30, "conv=fsync"), 30)
	var wg sync.WaitGroup
	began := time.Now()
	for _, name := range []string{"a", "b"} {
		wg.Go(func() { dd(t, "docker/"+name, filepath.Join(path, name), 15, "oflag=direct") })
	}
	wg.Wait()
	want("two together", time.Since(began), 30)

	f.a.volume("other@free", nil)
	other := f.a.mounts("other", "two")
	if took := dd(t, "docker/free", filepath.Join(other, "f"), 30, "oflag=direct"); took > 3*time.Second {
		t.Errorf("another volume: 30 MiB took %s", took)
	}
	f.a.unmounts("other", "two")

	dd(t, "docker/dirty", filepath.Join(path, "dirty"), 150, "conv=notrunc")
	if _, err := f.svc.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "db", Profile: "frozen"}); err != nil {
		t.Fatal(err)
	}
	f.soon("quiesce", func() bool { d, _ := f.a.cache.dataset(d.ID); return d.Profile.Quiesce == dataset.QuiesceFreeze })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	began = time.Now()
	if err := f.a.perform(ctx, api.Request{Kind: dataset.OpSnapshot, Volume: "db"}); err != nil {
		t.Errorf("snapshot with 150 MiB dirty: %v", err)
	}
	t.Logf("snapshot with up to 150 MiB dirty: %.2f s", time.Since(began).Seconds())
	dd(t, "docker/dirty", filepath.Join(path, "dirty"), 150, "conv=notrunc")
	began = time.Now()
	f.a.unmounts("db", "one")
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("unmount with 150 MiB dirty: %s", took)
	}
	t.Logf("unmount with up to 150 MiB dirty: %.2f s", time.Since(began).Seconds())
}
