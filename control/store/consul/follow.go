package consul

import (
	"context"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/droverhq/drover/control/store"
)

// The pauses between queries. pause follows an answer, so that a busy store gets at most two hundred queries a second.
// minRetry and maxRetry bound the pause after a failure.
const (
	pause    = 5 * time.Millisecond
	minRetry = 100 * time.Millisecond
	maxRetry = 2 * time.Second
)

func shardNumber(name string) (int, bool) {
	n, err := strconv.Atoi(name)
	return n, err == nil && n >= 0 && n < shards && shardName(n) == name
}

// query asks Consul once for the changes after an index, and applies the answer to the feed. It returns the index for
// the next call.
type query func(ctx context.Context, after uint64) (uint64, error)

// follow starts a goroutine that repeats a query until the store is closed. If the goroutine runs already, follow does
// nothing.
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
				next = 0 // Consul requires this of its clients when an index goes backwards
			}
			after = next
			select {
			case <-s.opts.Clock.After(wait):
			case <-s.ctx.Done():
			}
		}
	})
}

// queryOnce calls ask once, and records the result in f. A query that awaitAnswer cancelled so that a newer one begins
// does not count as failed.
func (s *Store) queryOnce(f *follower, ask query, after uint64) (uint64, error) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	s.feed.mu.Lock()
	f.begun++
	number := f.begun
	if number <= f.noWaitUntil {
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

// queryShards asks Consul for the indexes of all shards and applies them to the feed.
func (s *Store) queryShards(ctx context.Context, after uint64) (uint64, error) {
	if err := s.ready(ctx); err != nil {
		return 0, err
	}
	before := s.feed.knownIndexes()
	pairs, meta, err := s.watchClient.KV().List(s.layout.rev, blockingOptions(ctx, after))
	if err == nil {
		err = s.checkComplete(ctx, "own/rev/", len(pairs), meta.ResultsFilteredByACLs)
	}
	if err != nil {
		return 0, err
	}
	now := make(map[string]uint64, len(pairs))
	for _, p := range pairs {
		now[strings.TrimPrefix(p.Key, s.layout.rev)] = p.ModifyIndex
	}
	if now[allShards] == 0 {
		s.formatted.Store(false) // Another program deleted the keys. The next call creates the store again.
	}
	s.feed.applyShards(now, before)
	return meta.LastIndex, nil
}

// knownIndexes returns the indexes of the shards that this process knows, from earlier answers and from its own
// transactions. If a later query returns a lower index, the store was replaced.
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

// applyShards applies the current indexes of the shards to the feed. before has the indexes that were known when the
// query began. If an index is lower than in before, the store was replaced by an older one. Then every key may have
// changed, and new transactions may get indexes that were given out earlier.
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
		f.wakeAll()
		return
	}
	f.lastAnswer, f.newest = now, max(f.newest, newest)
	for rev, i := range now {
		f.move(rev, i)
	}
}

// undoneRange returns the range of indexes that the store gave out before it was replaced by an older one, and that the
// older store does not contain. before has the indexes of the shards before the replacement, and now has those after
// it. newest is the newest index that was known before the replacement.
//
// Indexes of later transactions are above the range, because Consul continues to count (restoreUserSnapshot in raft).
// They can be inside the range if the older store is in a new Consul cluster.
func undoneRange(before, now map[string]uint64, newest uint64) gap {
	last := uint64(0) // the newest index in before
	for _, i := range before {
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

// queryLive asks Consul whether a key that is bound to a session has changed. It requests only the names of the keys,
// because only the index matters.
func (s *Store) queryLive(ctx context.Context, after uint64) (uint64, error) {
	if err := s.ready(ctx); err != nil {
		return 0, err
	}
	keys, meta, err := s.watchClient.KV().Keys(s.layout.data+store.LivePrefix, "", blockingOptions(ctx, after))
	if err == nil {
		err = s.checkComplete(ctx, store.LivePrefix, len(keys), meta.ResultsFilteredByACLs)
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
	f.wakeAll()
}
