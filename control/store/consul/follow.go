package consul

import (
	"context"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/droverhq/drover/control/store"
)

// The pauses between queries: after an answer, so that a busy store is asked at
// most two hundred times a second, and after a failure.
const (
	pause    = 5 * time.Millisecond
	minRetry = 100 * time.Millisecond
	maxRetry = 2 * time.Second
)

func shardNumber(name string) (int, bool) {
	n, err := strconv.Atoi(name)
	return n, err == nil && n >= 0 && n < shards && shardName(n) == name
}

// ask is one query for changes after an index; it takes the answer into the feed
// and returns the index to wait with the next time.
type ask func(ctx context.Context, after uint64) (uint64, error)

// follow has a query going on until the store ends. Again: nothing.
func (s *Store) follow(f *follower, ask ask) {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	if f.running || s.ctx.Err() != nil {
		return
	}
	f.running = true
	s.workers.Go(func() {
		after, retry := uint64(0), minRetry
		for s.ctx.Err() == nil {
			next, err := s.askOnce(f, ask, after)
			wait := pause
			if err != nil {
				next, wait = 0, retry
				retry = min(2*retry, maxRetry)
			} else {
				retry = minRetry
			}
			if next < after {
				next = 0 // Consul's rule for an index that went back
			}
			after = next
			select {
			case <-s.opts.Clock.After(wait):
			case <-s.ctx.Done():
			}
		}
	})
}

// askOnce asks once. One that was cut short, so that the next begins, is no
// failure.
func (s *Store) askOnce(f *follower, ask ask, after uint64) (uint64, error) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	s.feed.mu.Lock()
	f.begun++
	number := f.begun
	if number <= f.want {
		after = 0
	}
	if after > 0 {
		f.cancel = cancel
	}
	s.feed.mu.Unlock()

	next, err := ask(ctx, after)

	cut := ctx.Err() != nil
	if err != nil && !cut {
		err = s.failed(ctx, "watch changes", err)
	}
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	f.cancel = nil
	if err != nil && cut {
		return 0, nil
	}
	f.err = err
	if err == nil {
		f.applied = number
		s.feed.wakes.Add(1)
	}
	close(f.tried)
	f.tried = make(chan struct{})
	if err != nil {
		close(f.failed)
		f.failed = make(chan struct{})
	}
	return next, err
}

// askRevs asks which shards changed.
func (s *Store) askRevs(ctx context.Context, after uint64) (uint64, error) {
	if err := s.ready(ctx); err != nil {
		return 0, err
	}
	before := s.feed.known()
	pairs, meta, err := s.slow.KV().List(s.layout.rev, blocking(ctx, after))
	if err == nil {
		err = s.whole(ctx, "own/rev/", len(pairs), meta.ResultsFilteredByACLs)
	}
	if err != nil {
		return 0, err
	}
	now := make(map[string]uint64, len(pairs))
	for _, p := range pairs {
		now[strings.TrimPrefix(p.Key, s.layout.rev)] = p.ModifyIndex
	}
	if now[everything] == 0 {
		s.formatted.Store(false) // it was emptied from outside: it is made again at the next call
	}
	s.feed.take(now, before)
	return meta.LastIndex, nil
}

// known returns the shards as they were heard of, or written to by this process: an answer to a
// question that comes after is no older.
func (f *feed) known() map[string]uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := make(map[string]uint64, shards)
	maps.Copy(known, f.heard)
	for n, i := range f.shard {
		if i > 0 {
			known[shardName(n)] = max(known[shardName(n)], i)
		}
	}
	return known
}

// take applies the present state of the shards; before is their known state at the time of the request. When one
// has gone back, the store was exchanged for an older one: everything may have changed, at an index
// that may be below those given out before.
func (f *feed) take(now, before map[string]uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	back, newest := false, uint64(0)
	for rev, was := range before {
		back = back || now[rev] < was
	}
	for _, i := range now {
		newest = max(newest, i)
	}
	if back {
		f.lost = undone(before, now, f.newest)
		f.heard, f.newest, f.all, f.live, f.shard = now, newest, newest, 0, [shards]uint64{}
		f.ringAll()
		return
	}
	f.heard, f.newest = now, max(f.newest, newest)
	for rev, i := range now {
		f.move(rev, i)
	}
}

// undone returns the indexes that were given out between the state to which a store has gone back and its
// former state. Later indexes are above them: Consul continues to count (raft, restoreUserSnapshot), unless
// it is a new cluster.
func undone(was, now map[string]uint64, newest uint64) gap {
	last := uint64(0) // that was heard of before
	for _, i := range was {
		last = max(last, i)
	}
	g := gap{high: max(last, newest)}
	for _, i := range now {
		if i <= last {
			g.low = max(g.low, i)
		} else {
			g.high = min(g.high, i-1)
		}
	}
	return g
}

// askLive asks whether anything changed among the keys bound to sessions. Their
// names alone are asked for; the index is what counts.
func (s *Store) askLive(ctx context.Context, after uint64) (uint64, error) {
	if err := s.ready(ctx); err != nil {
		return 0, err
	}
	keys, meta, err := s.slow.KV().Keys(s.layout.data+store.LivePrefix, "", blocking(ctx, after))
	if err == nil {
		err = s.whole(ctx, store.LivePrefix, len(keys), meta.ResultsFilteredByACLs)
	}
	if err != nil {
		return 0, err
	}
	if len(keys) == 0 {
		s.formatted.Store(false)
	}
	s.feed.takeLive(meta.LastIndex)
	return meta.LastIndex, nil
}

func (f *feed) takeLive(index uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if index <= f.live {
		return
	}
	f.live, f.newest = index, max(f.newest, index)
	f.ringAll()
}
