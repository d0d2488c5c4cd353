package bolt_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/test/require"
)

func openBench(b *testing.B, path string) *bolt.Store {
	s, err := bolt.Open(b.Context(), path, bolt.Options{Clock: clock.System{}})
	require.NoError(b, err)
	return s
}

// BenchmarkCreates prints durable creates a second, and how many share a flush.
func BenchmarkCreates(b *testing.B) {
	for _, callers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s := openBench(b, filepath.Join(b.TempDir(), "store.db"))
			defer s.Close()
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range callers {
				wg.Go(func() {
					for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
						checks, writes := create(int(n))
						if _, err := s.Txn(context.Background(), checks, writes); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
			b.ReportMetric(float64(b.N)/float64(s.Stats().Commits), "creates/flush")
		})
	}
}

// fill creates n datasets with their keys.
func fill(b *testing.B, s store.Store, n int) (ids []string) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for w := range 64 {
		wg.Go(func() {
			for i := w; i < n; i += 64 {
				checks, writes := create(i)
				if _, err := s.Txn(context.Background(), checks, writes); err != nil {
					b.Error(err)
					return
				}
				mu.Lock()
				ids = append(ids, writes[1].Key)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return ids
}

// BenchmarkChange measures a change, a read, a page of a list, and an open of a store with n datasets, each by a single
// caller.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		path := filepath.Join(b.TempDir(), "store.db")
		s := openBench(b, path)
		ids := fill(b, s, n)
		value := make([]byte, 900)
		b.Run(fmt.Sprintf("datasets=%d", n), func(b *testing.B) {
			for i := range b.N {
				if _, err := s.Txn(context.Background(), nil, []store.Write{{Key: ids[i*7919%len(ids)], Value: value}}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("get/datasets=%d", n), func(b *testing.B) {
			for i := range b.N {
				if _, err := s.Get(context.Background(), ids[i*7919%len(ids)]); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("page/datasets=%d", n), func(b *testing.B) {
			for i := range b.N {
				if _, err := s.List(context.Background(), "datasets/", ids[i*7919%len(ids)], 100); err != nil {
					b.Fatal(err)
				}
			}
		})
		require.NoError(b, s.Close())
		info, err := os.Stat(path)
		require.NoError(b, err)
		b.Run(fmt.Sprintf("open/datasets=%d", n), func(b *testing.B) {
			for range b.N {
				require.NoError(b, openBench(b, path).Close())
			}
			b.ReportMetric(float64(info.Size())/1e6, "MB")
		})
	}
}
