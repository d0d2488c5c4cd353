package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// BenchmarkIdle measures the cost of Drover while its volumes are mounted and there are no requests.
func BenchmarkIdle(b *testing.B) {
	header(os.Stdout, "", "drover")
	many := max(volumes(b)*26/100, 2)
	for _, c := range []struct {
		name    string
		mounted int
		memory  float64 // MiB
	}{{"few", min(100, many), 50}, {"many", many, 80}} {
		b.Run(c.name, func(b *testing.B) {
			h := startHost(b, "xfs")
			mountMany(b, h, c.mounted)
			idle(b, h, c.mounted, c.memory)
			quiet(b)
		})
	}
}

// mountMany makes and mounts volumes as an engine does for containers, and unmounts them at the end.
func mountMany(b *testing.B, h *host.Host, n int) {
	p := dial(h.Socket())
	b.Cleanup(p.close)
	name := func(i int) request { return request{Name: fmt.Sprintf("volume-%d", i), ID: fmt.Sprintf("%064x", i)} }
	each := func(call string) error {
		errs := make(chan error, n)
		atOnce(b, 8, n, func(i int) error {
			err := p.call("POST", "/VolumeDriver."+call, name(i))
			if err != nil {
				errs <- err
			}
			return nil
		})
		close(errs)
		return <-errs
	}
	b.Cleanup(func() {
		assert.NoError(b, each("Unmount"))
	})
	for _, call := range []string{"Create", "Mount"} {
		require.NoError(b, each(call))
	}
}

// settle is the time that Drover has to process what was just done. The garbage collector returns memory to the
// kernel in the meantime.
const settle = 15 * time.Second

func idle(b *testing.B, h *host.Host, mounted int, memory float64) {
	span := time.Duration(seconds(b)) * time.Second
	time.Sleep(min(settle, span))
	before := cpuTime(b, h.PID())
	time.Sleep(span)
	percent := float64(cpuTime(b, h.PID())-before) / float64(span) * 100
	single(fmt.Sprintf("idle, %d mounted: of a core", mounted), []float64{percent}, "%", atMost(1))
	single(fmt.Sprintf("idle, %d mounted: memory (RSS)", mounted), []float64{rss(b, h.PID())}, "MiB", atMost(memory))
}

// cpuTime is the CPU time of a process in user and kernel mode: fields 14 and 15 of /proc/PID/stat, in hundredths of
// a second (proc(5); USER_HZ is 100 everywhere).
func cpuTime(tb testing.TB, pid int) time.Duration {
	tb.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(tb, err)
	_, after, _ := strings.Cut(string(text), ") ") // the name before it may contain blanks
	fields := strings.Fields(after)
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		require.NoError(tb, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// rss is the memory of a process, in MiB.
func rss(tb testing.TB, pid int) float64 {
	tb.Helper()
	return memoryPart(tb, pid, "VmRSS")
}

// memoryPart returns a part of the memory of a process, in MiB. The parts are fields of proc(5): VmRSS is all memory,
// RssAnon is what the process has allocated, and RssFile are the pages of its program and of mapped databases, which the
// kernel can reclaim.
func memoryPart(tb testing.TB, pid int, part string) float64 {
	tb.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(tb, err)
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, part+":"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(v)[0], 64)
			require.NoError(tb, err)
			return kib / 1024
		}
	}
	tb.Fatalf("no %s in /proc/PID/status", part)
	return 0
}
