package bench

import (
	"fmt"
	"io"
	"net/http"
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

// BenchmarkManyVolumes: what an operator, an engine and Prometheus wait for on a host with many volumes, and the memory
// of the daemon. Ten volumes are mounted, as on a host whose volumes are mostly at rest.
func BenchmarkManyVolumes(b *testing.B) {
	h := startHost(b, "xfs")
	p := dial(h.Socket())
	defer p.close()
	api := dial(strings.TrimPrefix(h.API(), "unix://"))
	defer api.close()
	mountMany(b, h, 10)
	time.Sleep(min(settle, time.Duration(seconds(b))*time.Second))
	empty := rss(b, h.PID())
	made := 0
	header(os.Stdout, "", "drover")
	for _, n := range []int{many(b) / 3, many(b)} {
		from := made
		took := timed(func() {
			atOnce(b, 16, n-from, func(i int) error {
				return p.call("POST", "/VolumeDriver.Create", named(fmt.Sprintf("many-%d", from+i)))
			})
		})
		made = n
		single(fmt.Sprintf("%d volumes: creates", n), []float64{float64(n-from) / took * 1000}, "/s", goal{})
		repeat := func(what string, limit float64, f func()) {
			f()
			s := inTurns(7, func() float64 { return timed(f) })
			single(fmt.Sprintf("%d volumes: %s", n, what), s[0], "ms", atMost(limit))
		}
		listed := 300.0 // milliseconds
		if n > 10_000 {
			listed = 500
		}
		repeat("drover volume ls", listed, func() { h.Must(b, "volume", "ls") })
		repeat("drover status", 500, func() { h.Exec(b, "status") })
		repeat("List of the plugin", 100, func() { p.must(b, "POST", "/VolumeDriver.List", struct{}{}) })
		repeat("scrape of /metrics", float64(n)/10, func() { scrape(b, api) })
		time.Sleep(min(settle, time.Duration(seconds(b))*time.Second))
		all := rss(b, h.PID())
		single(fmt.Sprintf("%d volumes: memory (RSS)", n), []float64{all}, "MiB", atMost(30+float64(n)*4/1024))
		single(fmt.Sprintf("%d volumes: memory of each", n), []float64{(all - empty) / float64(n) * 1024}, "KiB", atMost(4))
		for _, part := range []string{"RssAnon", "RssFile", "RssShmem"} {
			single(fmt.Sprintf("%d volumes: memory (%s)", n, part), []float64{memoryPart(b, h.PID(), part)}, "MiB", goal{})
		}
	}
	idle(b, h, 10, 30+float64(made)*4/1024)
	quiet(b)
}

// many is how many volumes a host has at most.
func many(b *testing.B) int { return knob(b, "BENCH_MANY", 30_000) }

func scrape(tb testing.TB, api peer) {
	tb.Helper()
	resp, err := api.client.Get("http://peer/metrics")
	require.NoError(tb, err)
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		tb.Fatal(resp.Status, err)
	}
}
