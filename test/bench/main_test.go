package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) { engine.Main(m) }

// knob reads a number from the environment that can shorten the bench.
func knob(b *testing.B, name string, full int) int {
	b.Helper()
	text := os.Getenv(name)
	if text == "" {
		return full
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		b.Fatalf("%s=%q: want a whole number from 1", name, text)
	}
	return n
}

// pairs is the number of repetitions of each comparison.
func pairs(b *testing.B) int { return knob(b, "BENCH_PAIRS", 31) }

// volumes is the number of volumes for `docker volume ls`. A little more than a quarter of them are mounted at once
// to measure an idle Drover.
func volumes(b *testing.B) int { return knob(b, "BENCH_VOLUMES", 10_000) }

// seconds is how long an idle Drover is observed. Each load runs for a thirtieth of that time.
func seconds(b *testing.B) int { return knob(b, "BENCH_SECONDS", 60) }

func loadTime(b *testing.B) time.Duration {
	return max(time.Duration(seconds(b))*time.Second/30, 300*time.Millisecond)
}

// inTurns takes n samples of each function in turns, and begins each turn with another function, so that a function
// does not always run after the same one. A first round of each is not counted.
func inTurns(n int, measure ...func() float64) [][]float64 {
	out := make([][]float64, len(measure))
	for round := range n + 1 {
		for i := range measure {
			i = (i + round) % len(measure)
			if v := measure[i](); round > 0 {
				out[i] = append(out[i], v)
			}
		}
	}
	return out
}

// compare prints the row for two series that were taken in turns.
func compare(what string, a, b []float64, unit string, g goal) {
	r := row{what: what, a: median(a).mid, b: median(b).mid, unit: unit, ratio: median(ratios(a, b)), goal: g}
	r.print(os.Stdout)
}

// single prints the row for one series.
func single(what string, s []float64, unit string, g goal) {
	m := median(s)
	row{what: what, a: math.NaN(), b: m.mid, unit: unit, ratio: m, goal: g}.print(os.Stdout)
}

// quiet removes the total time, which means nothing, from the output of go test.
func quiet(b *testing.B) { b.ReportMetric(0, "ns/op") }

// timed returns the milliseconds that f takes.
func timed(f func()) float64 {
	begin := time.Now()
	f()
	return float64(time.Since(begin)) / 1e6
}

// A peer is an HTTP server on a unix socket: an engine, or the plugin as called by an engine.
type peer struct{ client *http.Client }

func dial(socket string) peer {
	to := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return peer{&http.Client{Transport: &http.Transport{DialContext: to, MaxIdleConnsPerHost: 256}}}
}

// call sends v as JSON and reads the whole answer. It can be called concurrently.
func (p peer) call(method, path string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(method, "http://peer"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(text))
	}
	return err
}

func (p peer) must(tb testing.TB, method, path string, v any) {
	tb.Helper()
	require.NoError(tb, p.call(method, path, v))
}

// close closes the connections.
func (p peer) close() { p.client.CloseIdleConnections() }
