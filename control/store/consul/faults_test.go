package consul_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/consul"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/assert"
	consultest "github.com/droverhq/drover/test/consul"
	"github.com/droverhq/drover/test/require"
)

// addition is one increment of the counter, as seen by its caller.
type addition struct {
	value      int
	start, end time.Time
	tries      int
}

// count is the value of the counter.
type count struct {
	N       int
	Request string
}

// counter increments one key, each time together with a record of the request, so that a caller that does not know
// the outcome can find it out.
type counter struct {
	s       *consul.Store
	mu      sync.Mutex
	history []addition
	unknown int
}

func (c *counter) add(ctx context.Context) error {
	a := addition{start: time.Now()}
	id := uuid.NewString()
	for {
		a.tries++
		n, done, err := c.try(ctx, id)
		if err == nil && done {
			a.value, a.end = n, time.Now()
			c.mu.Lock()
			c.history = append(c.history, a)
			c.mu.Unlock()
			return nil
		}
		if err != nil && dataset.KindOf(err) != dataset.ErrUnavailable {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (c *counter) try(ctx context.Context, id string) (int, bool, error) {
	own, err := c.s.Get(ctx, "requests/"+id)
	if err == nil {
		var n int
		return n, true, json.Unmarshal(own.Value, &n)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return 0, false, err
	}
	sum, err := c.s.Get(ctx, "counter")
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return 0, false, err
	}
	var was count
	if sum.Index != 0 {
		if err := json.Unmarshal(sum.Value, &was); err != nil {
			return 0, false, err
		}
	}
	now, _ := json.Marshal(count{was.N + 1, id})
	_, err = c.s.Txn(ctx, []store.Precondition{{Key: "counter", Index: sum.Index}, {Key: "requests/" + id}}, []store.Write{
		{Key: "counter", Value: now}, {Key: "requests/" + id, Value: fmt.Append(nil, was.N+1)},
	})
	switch {
	case err == nil:
		return was.N + 1, true, nil
	case errors.Is(err, store.ErrConflict):
		return 0, false, nil
	}
	c.mu.Lock()
	c.unknown++
	c.mu.Unlock()
	return 0, false, err
}

// check compares the history with what one counter can have done: every number from one on exactly once, in an order
// that agrees with time. For increments, linearizability requires nothing else. Transactions that were not
// acknowledged may be among the records, each one once as well.
func (c *counter) check(t *testing.T) {
	t.Helper()
	records, err := c.s.List(t.Context(), "requests/", "", 0)
	require.NoError(t, err)
	var last count
	require.NoError(t, json.Unmarshal([]byte(value(t, c.s, "counter")), &last))
	made := map[int]bool{}
	for _, r := range records {
		var n int
		if err := json.Unmarshal(r.Value, &n); err != nil || made[n] {
			t.Fatalf("%s: %d was made twice, or: %v", r.Key, n, err)
		}
		made[n] = true
	}
	if len(made) != last.N || len(c.history) > last.N {
		t.Fatalf("the counter is at %d, %d requests are on record, %d were acknowledged", last.N, len(made), len(c.history))
	}
	slices.SortFunc(c.history, func(a, b addition) int { return a.value - b.value })
	latest := time.Time{}
	for i, a := range c.history {
		if !made[a.value] || i > 0 && c.history[i-1].value == a.value {
			t.Fatalf("%d was acknowledged and is not on record, or twice", a.value)
		}
		if a.end.Before(latest) {
			t.Fatalf("%d had ended before one with a smaller number began", a.value)
		}
		if a.start.After(latest) {
			latest = a.start
		}
	}
	t.Logf("%d additions, %d with an unknown outcome in between", len(c.history), c.unknown)
}

// Leaders are killed, stopped and frozen in the middle of transactions. Nothing acknowledged is lost, nothing happens
// twice, and watchers see the final state.
func TestLeaderChanges(t *testing.T) {
	long.Only(t)
	// Consul takes the vote from a server that was frozen for 8 s, and returns the vote 10 s after the server
	// continues. Until then, two servers of three cannot continue if another one fails.
	c := consultest.Start(t, consultest.Options{Servers: 3, Config: map[string]any{
		"autopilot": map[string]any{"cleanup_dead_servers": false},
	}})
	s := openWith(t, consul.Options{Addresses: c.Addresses(), Prefix: "p", CallTime: 8 * time.Second})
	n := &counter{s: s}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var writers sync.WaitGroup
	for range 6 {
		writers.Go(func() {
			for ctx.Err() == nil {
				if err := n.add(t.Context()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	watched := make(chan error, 1)
	go func() { watched <- followTo(t.Context(), s, "requests/", "finished") }()

	progress := func() { // and some more additions
		n.mu.Lock()
		want := len(n.history) + 50
		n.mu.Unlock()
		for after := uint64(0); ; {
			n.mu.Lock()
			have := len(n.history)
			n.mu.Unlock()
			if have >= want {
				return
			}
			var err error
			if after, err = s.Watch(t.Context(), "requests/", after); err != nil && dataset.KindOf(err) != dataset.ErrUnavailable {
				t.Fatal(err)
			}
		}
	}
	for _, fault := range []func(*consultest.Server){
		func(l *consultest.Server) { l.Kill(); progress(); l.Start() },
		func(l *consultest.Server) { l.Pause(); progress(); l.Resume() },
		func(l *consultest.Server) { l.Stop(); progress(); l.Start() },
	} {
		progress()
		fault(c.Leader())
	}
	progress()
	stop()
	writers.Wait()
	put(t, s, "requests/finished", "0")
	assert.NoErrorf(t, <-watched, "the watchers did not see the final state")
	_, err := s.Txn(t.Context(), nil, []store.Write{{Key: "requests/finished", Delete: true}})
	require.NoError(t, err)
	n.check(t)
}

// followTo reads a prefix at each change until a key exists, as a replica does. While the store is unavailable it
// retries.
func followTo(ctx context.Context, s *consul.Store, prefix, until string) error {
	var after uint64
	for {
		_, err := s.Get(ctx, prefix+until)
		if err == nil {
			return nil
		}
		if !errors.Is(err, store.ErrNotFound) && dataset.KindOf(err) != dataset.ErrUnavailable {
			return err
		}
		next, err := s.Watch(ctx, prefix, after)
		if err == nil {
			if next < after {
				return fmt.Errorf("the store went back from %d to %d", after, next)
			}
			after = next
		} else if dataset.KindOf(err) != dataset.ErrUnavailable {
			return err
		}
	}
}

// Without a majority every call ends in time with the reason. Once there is a majority again, everything continues.
func TestLossOfQuorum(t *testing.T) {
	long.Only(t)
	c := consultest.Start(t, consultest.Options{Servers: 3})
	s := open(t, c, "p")
	index := put(t, s, "a/b", "1")
	id, err := s.Session(t.Context(), time.Minute)
	require.NoError(t, err)
	seen := make(chan error, 1)
	go func() {
		_, err := s.Watch(t.Context(), "a/", index)
		seen <- err
	}()
	c.Servers[1].Kill()
	c.Servers[2].Kill()
	var calls sync.WaitGroup
	for what, call := range map[string]func(ctx context.Context) error{
		"get":     func(ctx context.Context) error { _, err := s.Get(ctx, "a/b"); return err },
		"list":    func(ctx context.Context) error { _, err := s.List(ctx, "", "", 0); return err },
		"session": func(ctx context.Context) error { _, err := s.Session(ctx, time.Minute); return err },
		"txn": func(ctx context.Context) error {
			_, err := s.Txn(ctx, nil, []store.Write{{Key: "a/b", Value: []byte("2")}})
			return err
		},
	} {
		calls.Go(func() {
			start := time.Now()
			err := call(t.Context())
			t.Logf("%s after %s: %v", what, time.Since(start).Round(time.Millisecond), err)
			says(t, err, dataset.ErrUnavailable, "")
			if time.Since(start) > 15*time.Second {
				t.Errorf("%s took too long", what)
			}
		})
	}
	calls.Wait()
	says(t, s.Renew(t.Context(), id), dataset.ErrUnavailable, "", "no leader")
	_, err = s.Get(t.Context(), "a/b")
	says(t, err, dataset.ErrUnavailable, "", "no leader")
	says(t, <-seen, dataset.ErrUnavailable, "")
	go func() {
		err := followTo(t.Context(), s, "a/", "back")
		seen <- err
	}()
	c.Servers[1].Start()
	c.Servers[2].Start()
	c.AwaitLeader()
	put(t, s, "a/back", "1")
	assert.NoError(t, <-seen)
	assert.NoErrorf(t, s.Renew(t.Context(), id), "the session did not outlive it")
}
