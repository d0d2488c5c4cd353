package consul

import (
	"context"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/droverhq/drover/control/store"
)

// The pauses between queries. After an answer, so that a busy store gets at most two hundred queries a second, and
// after a failure.
const (
	pause    = 5 * time.Millisecond
	minRetry = 100 * time.Millisecond
	maxRetry = 2 * time.Second
)

func shardNumber(name string) (int, bool) {
	n, err := strconv.Atoi(name)
	return n, err == nil && n >= 0 && n < shards && shardName(n) == name
}

// query sends one query for changes after an index. It applies the answer to the feed, and returns the index for the
// next query.
type query func(ctx context.Context, after uint64) (uint64, error)

// follow repeats a query until the store is closed. Idempotent.
func (s *Store) follow(f *follower, ask query) {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	if f.running || s.ctx.Err() != nil {
		return
	}
	f.running = true
	s.workers.Go(func() {
		after, retry := uint64(0), minRetry
		for s.ctx.Err() == nil {
			next, err := s.queryOnce(f, ask, after)
			wait := pause
			if err != nil {
				next, wait = 0, retry
				retry = min(2*retry, maxRetry)
			} else {
				retry = minRetry
			}
			if next < after {
				next = 0 // Consul's rule for an index that went backwards
			}
			after = next
			select {
			case <-s.opts.Clock.After(wait):
			case <-s.ctx.Done():
			}
		}
	})
}

// queryOnce sends one query. A query that was cancelled so that the next one can begin does not count as failed.
func (s *Store) queryOnce(f *follower, ask query, after uint64) (uint64, error) {
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

// queryShards queries which shards changed.
func (s *Store) queryShards(ctx context.Context, after uint64) (uint64, error) {
	if err := s.ready(ctx); err != nil {
		return 0, err
	}
	before := s.feed.knownIndexes()
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
		s.formatted.Store(false) // somebody emptied it: the next call creates it again
	}
	s.feed.applyShards(now, before)
	return meta.LastIndex, nil
}

// knownIndexes returns the indexes of the shards, from earlier answers and from transactions of this process. The
// answer to a later query is not older.
func (f *feed) knownIndexes() map[string]uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := make(map[string]uint64, shards)
	maps.Copy(known, f.lastAnswer)
	for n, i := range f.shard {
		if i > 0 {
			known[shardName(n)] = max(known[shardName(n)], i)
		}
	}
	return known
}

// applyShards applies the current indexes of the shards. before are the known indexes at the time of the query. If an
// index went backwards, the store was replaced by an older one: everything may have changed, and new indexes may be
// below those given out before.
func (f *feed) applyShards(now, before map[string]uint64) {
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
		f.lost = undoneRange(before, now, f.newest)
		f.lastAnswer, f.newest, f.all, f.live, f.shard = now, newest, newest, 0, [shards]uint64{}
		f.ringAll()
		return
	}
	f.lastAnswer, f.newest = now, max(f.newest, newest)
	for rev, i := range now {
		f.move(rev, i)
	}
}

// undoneRange returns the range of indexes that were given out between the state that the store went back to and its
// former state. Later indexes are above the range, because Consul continues to count (restoreUserSnapshot in raft),
// unless it is a new cluster.
func undoneRange(was, now map[string]uint64, newest uint64) gap {
	last := uint64(0) // the newest known index
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

// queryLive queries whether any key that is bound to a session has changed. It requests only the names of the keys,
// because only the index matters.
func (s *Store) queryLive(ctx context.Context, after uint64) (uint64, error) {
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
	s.feed.applyLive(meta.LastIndex)
	return meta.LastIndex, nil
}

func (f *feed) applyLive(index uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if index <= f.live {
		return
	}
	f.live, f.newest = index, max(f.newest, index)
	f.ringAll()
}
