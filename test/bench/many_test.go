package bench

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/test/require"
)

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
