package consul_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/consul"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/assert"
	consultest "github.com/droverhq/drover/test/consul"
	"github.com/droverhq/drover/test/require"
)

// silence is a Consul that writes nothing by itself while a test counts: its server has already recorded what it
// knows of its own node, which it does up to seconds after it became the leader.
func silence(t *testing.T) *consultest.Cluster {
	t.Helper()
	c := consultest.Start(t, consultest.Options{})
	ask := (&api.QueryOptions{}).WithContext(t.Context())
	for {
		n, meta, err := c.Client().Catalog().Node(c.Servers[0].Name, ask)
		require.NoError(t, err)
		if n != nil && len(n.Node.TaggedAddresses) > 0 { // the leader does not know it
			return c
		}
		ask.WaitIndex = meta.LastIndex
	}
}

// counting is a transport that counts the largest number of concurrent blocking queries.
func counting(t *testing.T, address string) (string, func() int) {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	var mu sync.Mutex
	var now, most int
	add := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		now += n
		most = max(most, now)
	}
	to := httputil.NewSingleHostReverseProxy(u)
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	to.Transport = transport
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("index") {
			add(1)
			defer add(-1)
		}
		to.ServeHTTP(w, r)
	}))
	t.Cleanup(transport.CloseIdleConnections)
	t.Cleanup(srv.Close)
	return srv.URL, func() int {
		mu.Lock()
		defer mu.Unlock()
		return most
	}
}

// However many callers watch, there are two blocking queries. Callers that only read, wait or renew write nothing.
func TestWatchesCost(t *testing.T) {
	c := silence(t)
	proxy, most := counting(t, c.Addresses()[0])
	s := openWith(t, consul.Options{Addresses: []string{proxy}, Prefix: "p"})
	id, err := s.Session(t.Context(), 10*time.Minute)
	require.NoError(t, err)
	var index uint64
	for n := range 200 {
		index = put(t, s, fmt.Sprintf("work/%d/x", n), "1")
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for n := range 200 {
		wg.Go(func() {
			prefix := fmt.Sprintf("work/%d/", n)
			if n%10 == 0 {
				prefix = fmt.Sprintf("live/%d/", n)
			}
			for after := index; ; {
				var err error
				if after, err = s.Watch(ctx, prefix, after); err != nil {
					assert.ErrorIs(t, err, context.Canceled)
					return
				}
			}
		})
	}
	// The queries are in progress once a change was received through them.
	other := open(t, c, "p")
	changed := put(t, other, "work/7/x", "2")
	if _, err := s.Watch(t.Context(), "work/7/", changed-1); err != nil {
		t.Fatal(err)
	}
	if n := most(); n > 2 {
		t.Errorf("%d blocking queries at once", n)
	}
	sent, raft := s.Stats().Requests, c.RaftIndex()
	for range 100 {
		require.NoError(t, s.Renew(t.Context(), id))
		_, err := s.Get(t.Context(), "work/7/x")
		require.NoError(t, err)
	}
	if now := c.RaftIndex(); now != raft {
		t.Errorf("the raft index went from %s to %s", raft, now)
	}
	if n := s.Stats().Requests - sent; n != 200 {
		t.Errorf("100 renewals and 100 reads took %d requests", n)
	}
	stop()
	wg.Wait()
}

// A watch of one node's work is not woken by the work of other nodes, except the few that share a shard.
func TestWatchSleeps(t *testing.T) {
	c := consultest.Start(t, consultest.Options{})
	s, other := open(t, c, "p"), open(t, c, "p")
	const nodes = 128
	index := put(t, s, "work/0/x", "0")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	wakes := make(chan int, 1)
	go func() {
		n, after := 0, index
		for {
			var err error
			if after, err = s.Watch(ctx, "work/0/", after); err != nil {
				wakes <- n
				return
			}
			n++
		}
	}()
	last := uint64(0)
	for n := 1; n < nodes; n++ {
		last = put(t, other, fmt.Sprintf("work/%d/x", n), "1")
	}
	for after := uint64(0); after < last; {
		var err error
		after, err = s.Watch(t.Context(), "work/", after)
		require.NoError(t, err)
	}
	stop()
	if n := <-wakes; n > nodes/16 {
		t.Errorf("%d changes to others' work woke it %d times", nodes-1, n)
	}
}

// Consul is restored from an older backup. The key that only grows is smaller then, and watchers get an index below
// the one with which they asked.
func TestRestoredSnapshot(t *testing.T) {
	c := consultest.Start(t, consultest.Options{})
	t.Run("and changed since", func(t *testing.T) { restore(t, c, "p", true) })
	t.Run("and quiet since", func(t *testing.T) {
		long.Only(t) // a waiting query checks again after 20 s
		restore(t, c, "q", false)
	})
}

func restore(t *testing.T, c *consultest.Cluster, prefix string, since bool) {
	s := open(t, c, prefix)
	put(t, s, "cluster/clock", "1")
	old := put(t, s, "a/b", "old")
	snapshot := c.Snapshot()
	put(t, s, "cluster/clock", "2")
	put(t, s, "a/c", "lost")
	index := put(t, s, "a/b", "new")
	writer := open(t, c, prefix) // and has not watched yet
	wrote := put(t, writer, "a/e", "lost")
	type answer struct {
		index uint64
		err   error
	}
	watched := make(chan answer, 1)
	go func() {
		for after := index; ; {
			i, err := s.Watch(t.Context(), "a/", after)
			if err != nil || i < after {
				watched <- answer{i, err}
				return
			}
			after = i
		}
	}()
	// It waits: another change shows that its query is in progress.
	put(t, s, "b/x", "1")
	if _, err := s.Watch(t.Context(), "b/", index); err != nil {
		t.Fatal(err)
	}
	c.Restore(snapshot)
	if since {
		put(t, open(t, c, prefix), "c/d", "made since")
	}
	if v := value(t, s, "cluster/clock"); v != "1" {
		t.Errorf("the clock is at %s", v)
	}
	if since {
		if i, err := writer.Watch(t.Context(), "a/", wrote); err != nil || i >= wrote {
			t.Errorf("who wrote at %d, and watched only after the restore, was told %d, %v", wrote, i, err)
		}
	}
	a := <-watched
	if a.err != nil || a.index >= index {
		t.Errorf("a watcher with index %d got %d, %v", index, a.index, a.err)
	}
	if e, err := s.Get(t.Context(), "a/b"); err != nil || e.Index != old || string(e.Value) != "old" {
		t.Errorf("%+v, %v; index was %d", e, err, old)
	}
	// A caller with an index from before the restore is told as well, also without a change since, and by another
	// store.
	if i, err := s.Watch(t.Context(), "a/", index); err != nil || i >= index {
		t.Errorf("after %d: %d, %v", index, i, err)
	}
	for _, s := range []*consul.Store{s, open(t, c, prefix)} {
		if i, err := s.Watch(t.Context(), "zz/", index+1000); err != nil || i >= index+1000 {
			t.Errorf("after %d: %d, %v", index+1000, i, err)
		}
	}
	if i := put(t, s, "a/b", "newer"); i <= index {
		t.Errorf("index %d after %d", i, index)
	}
	assert.NoError(t, waitPast(t.Context(), s, "a/", a.index))
}

func waitPast(ctx context.Context, s *consul.Store, prefix string, after uint64) error {
	for {
		i, err := s.Watch(ctx, prefix, after)
		if err != nil || i > after {
			return err
		}
	}
}

// Two clusters in one Consul do not see each other. One does not notice when the other is deleted, and a deleted one
// can be used as an empty store.
func TestPrefixes(t *testing.T) {
	c := consultest.Start(t, consultest.Options{})
	one, two := open(t, c, "drover"), open(t, c, "drover-2")
	put(t, one, "names/db", "one")
	index := put(t, two, "names/db", "two")
	id, err := two.Session(t.Context(), time.Minute)
	require.NoError(t, err)
	if _, err := two.Txn(t.Context(), nil, []store.Write{{Key: "live/a", Session: id}}); err != nil {
		t.Fatal(err)
	}
	if value(t, one, "names/db") != "one" || value(t, two, "names/db") != "two" {
		t.Error("one's key is the other's")
	}
	for s, want := range map[*consul.Store]int{one: 1, two: 2} {
		if list, err := s.List(t.Context(), "", "", 0); err != nil || len(list) != want {
			t.Errorf("%v, %v", list, err)
		}
	}
	require.NoError(t, waitPast(t.Context(), two, "names/", index-1))
	wakes := two.Stats().Wakes
	for n := range 50 {
		put(t, one, "names/db", fmt.Sprint(n))
	}
	require.NoError(t, waitPast(t.Context(), one, "names/", 0))
	if n := two.Stats().Wakes - wakes; n > 2 {
		t.Errorf("50 changes of one woke the other %d times", n)
	}
	_, err = c.Client().KV().DeleteTree("drover/", nil)
	require.NoError(t, err)
	if list, err := one.List(t.Context(), "", "", 0); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	index = put(t, one, "names/db", "again")
	assert.NoError(t, waitPast(t.Context(), one, "names/", index-1))
	if value(t, two, "names/db") != "two" {
		t.Error("it was deleted together with the other")
	}
}

// A session outlives the process that opened it, and ends when the catalog node to which it belongs is removed.
func TestSessions(t *testing.T) {
	c := consultest.Start(t, consultest.Options{})
	first := open(t, c, "p")
	id, err := first.Session(t.Context(), time.Hour)
	require.NoError(t, err)
	_, err = first.Txn(t.Context(), nil, []store.Write{{Key: "live/a", Session: id}})
	require.NoError(t, err)
	require.NoError(t, first.Close())
	s := open(t, c, "p")
	assert.NoErrorf(t, s.Renew(t.Context(), id), "it ended with its process")
	value(t, s, "live/a")
	index, err := s.Watch(t.Context(), "live/", 0)
	require.NoError(t, err)
	deregister(t, c.Client(), "p-sessions")
	assert.NoError(t, waitPast(t.Context(), s, "live/", index))
	if _, err := s.Get(t.Context(), "live/a"); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	assert.ErrorIs(t, s.Renew(t.Context(), id), store.ErrNotFound)
	if _, err := s.Session(t.Context(), time.Hour); err != nil {
		t.Error("no session after the node was taken away:", err)
	}
	if _, err := s.Session(t.Context(), time.Millisecond); err == nil {
		t.Error("a session of a millisecond was opened")
	} else {
		t.Log(err)
	}
}
