package faults

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/host"
)

// One host has thousands of volumes. All can be made at once and are listed, cost memory in proportion, and are there
// again after a restart. Times are printed and not checked, because machines differ.
func TestD1(t *testing.T) {
	w := newWorld(t, host.Options{Size: 8 << 30})
	n := long.Rounds(1000, 10_000)
	few := w.timed(t, n/10, 0)
	many := w.timed(t, n, n/10)
	before := w.h.Metrics(t)
	if got := int(before["drover_store_transactions_total"]); got > 2*n+100 {
		t.Errorf("%d transactions of the store for %d creates", got, n)
	}
	t.Logf("%d volumes: %s a create, %s to list them; %d: %s and %s", n/10, few.create, few.list, n, many.create, many.list)

	start := time.Now()
	w.h.Restart(t)
	t.Logf("started with %d volumes after %s", n, time.Since(start))
	w.hasListed(t, n)
	start = time.Now()
	w.h.Clean(t)
	t.Logf("doctor looked at %d volumes in %s", n, time.Since(start))
	for _, i := range []int{0, n / 2, n - 1} {
		w.write(t, many.name(i), fmt.Sprint(i))
		w.holds(t, many.name(i), fmt.Sprint(i))
	}
	w.h.Restart(t)
	host.Await(t, "the idle daemon releases the garbage of its start", func() error {
		if used := w.residentMemory(t); used > idleMemory(n) {
			return fmt.Errorf("%d volumes take %d bytes of memory, more than %d", n, used, idleMemory(n))
		}
		return nil
	})
}

// idleMemory is the goal for this number of volumes. The goals of 50 MiB with 100 and 80 MiB with 2,600 volumes are
// on one line.
func idleMemory(n int) int64 {
	const mib = 1 << 20
	return 50*mib + int64(n-100)*30*mib/2500
}

// figures are the measurements for one number of volumes.
type figures struct{ create, list time.Duration }

func (figures) name(i int) string { return fmt.Sprintf("volume-%05d", i) }

// timed makes volumes until there are n, 64 at once, and lists them.
func (w *world) timed(t testing.TB, n, have int) (f figures) {
	t.Helper()
	todo := make(chan int)
	var wg sync.WaitGroup
	start := time.Now()
	for range 64 {
		wg.Go(func() {
			for i := range todo {
				if err := w.plug.Create(f.name(i), nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := have; i < n; i++ {
		todo <- i
	}
	close(todo)
	wg.Wait()
	f.create = time.Since(start) / time.Duration(n-have)
	var times []time.Duration
	for range 11 {
		start := time.Now()
		w.hasListed(t, n)
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	f.list = times[len(times)/2]
	return f
}

// hasListed fails unless the plugin lists exactly n volumes, each once.
func (w *world) hasListed(t testing.TB, n int) {
	t.Helper()
	list, err := w.plug.List()
	w.ok(t, err)
	if slices.Sort(list); len(slices.Compact(list)) != n || len(list) != n {
		t.Errorf("%d volumes are listed, want %d", len(list), n)
	}
}
