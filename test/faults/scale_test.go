package faults

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/host"
)

// One host has thousands of volumes. All can be made at once and are listed, cost memory in proportion, and are there
// again after a restart.
func TestD1(t *testing.T) {
	w := newWorld(t, host.Options{Size: 8 << 30})
	n := long.Rounds(1000, 10_000)
	name := func(i int) string { return fmt.Sprintf("volume-%05d", i) }
	todo := make(chan int)
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for i := range todo {
				if err := w.plug.Create(name(i), nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range n {
		todo <- i
	}
	close(todo)
	all.Wait()
	w.hasListed(t, n)
	if got := int(w.h.Metrics(t)["drover_store_transactions_total"]); got > 2*n+100 {
		t.Errorf("%d transactions of the store for %d creates", got, n)
	}
	w.h.Restart(t)
	w.hasListed(t, n)
	w.h.Clean(t)
	for _, i := range []int{0, n / 2, n - 1} {
		w.write(t, name(i), fmt.Sprint(i))
		w.holds(t, name(i), fmt.Sprint(i))
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

// hasListed fails unless the plugin lists exactly n volumes, each once.
func (w *world) hasListed(t testing.TB, n int) {
	t.Helper()
	list, err := w.plug.List()
	w.ok(t, err)
	if slices.Sort(list); len(slices.Compact(list)) != n || len(list) != n {
		t.Errorf("%d volumes are listed, want %d", len(list), n)
	}
}
