package consul_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/consul/api"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/consul"
	consultest "github.com/droverhq/drover/test/consul"
)

// create returns the writes of a volume creation: a name, a dataset, a lease, and an index entry for the node.
func create(n int) ([]store.Precondition, []store.Write) {
	id := uuid.NewString()
	name := fmt.Sprintf("names/volume-%06d", n)
	return []store.Precondition{{Key: name}, {Key: "datasets/" + id}}, []store.Write{
		{Key: name, Value: []byte(id)},
		{Key: "datasets/" + id, Value: make([]byte, 900)},
		{Key: "leases/" + id, Value: make([]byte, 200)},
		{Key: "home/" + uuid.NewString() + "/" + id},
	}
}

// BenchmarkBare is the lower bound for BenchmarkCreate: the same writes and checks by Consul's own client, without
// what makes watches cheap.
func BenchmarkBare(b *testing.B) {
	for _, servers := range []int{1, 3} {
		b.Run(fmt.Sprintf("servers=%d", servers), func(b *testing.B) {
			c := consultest.Start(b, consultest.Options{Servers: servers})
			transport := &http.Transport{MaxIdleConnsPerHost: 64, MaxConnsPerHost: 64}
			b.Cleanup(transport.CloseIdleConnections)
			client, err := api.NewClient(&api.Config{Address: c.Addresses()[0], HttpClient: &http.Client{Transport: transport}})
			if err != nil {
				b.Fatal(err)
			}
			var n atomic.Int64
			b.SetParallelism(32)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					checks, writes := create(int(n.Add(1)))
					ops := make(api.TxnOps, 0, len(checks)+len(writes))
					for _, w := range writes { // all are new, and each checks only itself
						ops = append(ops, kv(api.KVTxnOp{Verb: api.KVCAS, Key: "p/" + w.Key, Value: w.Value}))
					}
					if ok, res, _, err := client.Txn().Txn(ops, nil); !ok {
						b.Error(res, err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "txn/s")
		})
	}
}

// Measures transactions a second from 64 callers, on one server and on three.
func BenchmarkCreate(b *testing.B) {
	for _, servers := range []int{1, 3} {
		b.Run(fmt.Sprintf("servers=%d", servers), func(b *testing.B) {
			s := open(b, consultest.Start(b, consultest.Options{Servers: servers}), "p")
			put(b, s, "a", "1")
			var n atomic.Int64
			b.SetParallelism(32)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					checks, writes := create(int(n.Add(1)))
					if _, err := s.Txn(context.Background(), checks, writes); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "txn/s")
		})
	}
}

// Measures how long after a transaction was sent by another process a watch of it returns, while nothing else
// happens.
func BenchmarkWatchWakes(b *testing.B) {
	for _, servers := range []int{1, 3} {
		b.Run(fmt.Sprintf("servers=%d", servers), func(b *testing.B) {
			c := consultest.Start(b, consultest.Options{Servers: servers})
			s, other := open(b, c, "p"), open(b, c, "p")
			index := put(b, s, "work/node/op", "0")
			var took []time.Duration
			for b.Loop() {
				woke := make(chan time.Time, 1)
				go func(after uint64) { woke <- awaken(s, after) }(index)
				time.Sleep(10 * time.Millisecond) // by then it waits
				sent := time.Now()
				index = put(b, other, "work/node/op", "1")
				took = append(took, (<-woke).Sub(sent))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us-from-sent")
		})
	}
}

func awaken(s *consul.Store, after uint64) time.Time {
	if _, err := s.Watch(context.Background(), "work/node/", after); err != nil {
		panic(err)
	}
	return time.Now()
}

// The cost of a page does not depend on the number of keys. Their names have nothing, or nearly everything, in
// common.
func BenchmarkPage(b *testing.B) {
	for _, keys := range []int{1000, 20000, 100000} {
		c := consultest.Start(b, consultest.Options{})
		for kind, name := range map[string]func(n int) string{
			"uuids": func(int) string { return uuid.NewString() },
			"names": func(n int) string { return fmt.Sprintf("production-database-%06d", n) },
		} {
			s := open(b, c, kind)
			fill(b, s, keys, name)
			for _, limit := range []int{100, 1000} {
				b.Run(fmt.Sprintf("keys=%d/%s/limit=%d", keys, kind, limit), func(b *testing.B) {
					pages(b, s, keys, limit)
				})
			}
		}
	}
}

func fill(b *testing.B, s *consul.Store, keys int, name func(int) string) {
	b.Helper()
	for n := 0; n < keys; n += 100 {
		var writes []store.Write
		for i := range 100 {
			writes = append(writes, store.Write{Key: "datasets/" + name(n+i), Value: make([]byte, 900)})
		}
		if _, err := s.Txn(b.Context(), nil, writes); err != nil {
			b.Fatal(err)
		}
	}
}

// pages measures all pages of a prefix, repeatedly, without the first listing.
func pages(b *testing.B, s *consul.Store, keys, limit int) {
	b.Helper()
	began := time.Now()
	if _, err := s.List(b.Context(), "datasets/", "", limit); err != nil {
		b.Fatal(err)
	}
	first := time.Since(began)
	before, after, seen := s.Stats().Requests, "", 0
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		list, err := s.List(b.Context(), "datasets/", after, limit)
		if err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
		seen += len(list)
		if after = ""; len(list) == limit {
			after = list[limit-1].Key
		} else if seen != keys {
			b.Fatalf("%d of %d keys", seen, keys)
		} else {
			seen = 0
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(first.Microseconds())/1000, "first-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(s.Stats().Requests-before)/float64(len(took)), "requests/page")
}
