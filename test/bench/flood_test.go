package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

const (
	flooders = 64  // concurrent creates
	flood    = 640 // creates in one round
)

// BenchmarkDurableCreates measures creates per second, 64 at once, through the plugin's socket, each one durable when
// it is answered. It compares them with the minimum on the same filesystem: share a template's blocks, flush, commit
// to the same kind of store.
func BenchmarkDurableCreates(b *testing.B) {
	header(os.Stdout, "bare floor", "drover")
	for _, fs := range []string{"xfs", "btrfs"} {
		b.Run(fs, func(b *testing.B) {
			h := startHost(b, fs)
			durableCreates(b, h, "durable creates at 64 at once, loop on "+fs)
			quiet(b)
		})
	}
}

func durableCreates(b *testing.B, h *host.Host, what string) {
	p := dial(h.Socket())
	defer p.close()
	p.must(b, "POST", "/VolumeDriver.Create", named("first")) // makes the template
	f := newFloor(b, h)
	n := 0
	perSecond := func(make func(i int) error) func() float64 {
		return func() float64 {
			n += flood
			ms := timed(func() { atOnce(b, flooders, flood, func(i int) error { return make(n + i) }) })
			return flood / ms * 1000
		}
	}
	s := inTurns(pairs(b), perSecond(f.make), perSecond(func(i int) error {
		return p.call("POST", "/VolumeDriver.Create", named(fmt.Sprintf("flood-%d", i)))
	}))
	compare(what+", to the floor", s[0], s[1], "/s", atLeast(0.4))
	single(what, s[1], "/s", atLeast(2000))
}

// atOnce calls f for 0 to n-1, with the given number of concurrent calls.
func atOnce(tb testing.TB, workers, n int, f func(i int) error) {
	tb.Helper()
	var wg sync.WaitGroup
	errs := make([]error, workers)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n && errs[w] == nil; i += workers {
				errs[w] = f(i)
			}
		})
	}
	wg.Wait()
	require.NoError(tb, errors.Join(errs...))
}

// A floor makes files with the least possible work.
type floor struct {
	dir      string
	template *os.File
	store    *bolt.Store
}

func newFloor(tb testing.TB, h *host.Host) *floor {
	tb.Helper()
	f := &floor{dir: filepath.Join(top(h), "floor")}
	require.NoError(tb, os.Mkdir(f.dir, 0o700))
	var err error
	if f.template, err = os.Open(template(tb, h)); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.template.Close() })
	f.store, err = bolt.Open(tb.Context(), filepath.Join(h.Root, "floor.db"), bolt.Options{Clock: clock.System{}})
	require.NoError(tb, err)
	tb.Cleanup(func() {
		assert.NoError(tb, f.store.Close())
	})
	return f
}

// make makes the i-th file durable, and then its record.
func (f *floor) make(i int) error {
	file, err := os.OpenFile(filepath.Join(f.dir, fmt.Sprint(i)), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := clone(file, f.template); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	return f.commit(fmt.Sprint(i))
}

// commit makes one transaction durable that checks and writes as many keys, of the same sizes, as a create does.
func (f *floor) commit(name string) error {
	id := uuid.NewString()
	var checks []store.Precondition
	var writes []store.Write
	for key, size := range map[string]int{
		"names/" + name: 45, "datasets/" + id: 560, "leases/" + id: 200, "by-uuid/" + id: 50, "home/" + id: 45,
	} {
		checks = append(checks, store.Precondition{Key: key})
		writes = append(writes, store.Write{Key: key, Value: make([]byte, size)})
	}
	_, err := f.store.Txn(context.Background(), checks, writes)
	return err
}
