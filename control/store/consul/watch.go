package consul

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/droverhq/drover/control/store"
)

// feed has the last change of each shard, according to the watches and to the commits of this process.
type feed struct {
	wakes atomic.Uint64

	mu      sync.Mutex
	newest  uint64         // the newest index of an answer, or of a transaction of this process
	shard   [shards]uint64 // newest known index of each shard
	all     uint64         // newest index of changes that may concern any shard
	live    uint64         // newest index of changes under store.LivePrefix
	changed chan struct{}  // for callers that wait for any change; closed at the next one
	in      [shards]chan struct{}

	lastAnswer  map[string]uint64 // the last answer about the shards
	lost        gap
	revs, lives follower
}

// gap is a range of indexes, above low and up to high. The store gave them out, and was then replaced by an older
// copy.
type gap struct{ low, high uint64 }

func (g gap) holds(index uint64) bool { return index > g.low && index <= g.high }

// follower is the state of one blocking query, which is repeated forever. The feed's mutex guards it.
type follower struct {
	running     bool
	begun       uint64        // queries begun so far
	noWaitUntil uint64        // queries with numbers up to this one return at once, without waiting for a change
	applied     uint64        // the newest query whose answer is in the feed
	tried       chan struct{} // closed when a query ends
	failed      chan struct{} // closed when a query fails
	err         error         // the error of the last query
	cancel      context.CancelFunc
}

func (f *feed) init() {
	f.changed = make(chan struct{})
	for _, q := range []*follower{&f.revs, &f.lives} {
		q.tried, q.failed = make(chan struct{}), make(chan struct{})
	}
}

// publish records a transaction of this process.
func (f *feed) publish(index uint64, revs []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.newest = max(f.newest, index)
	for _, r := range revs {
		f.move(r, index)
	}
}

// move records the index of the shard with the given rev key, and wakes the callers that wait for the shard. The
// caller holds the lock.
func (f *feed) move(rev string, index uint64) {
	if rev == allShards {
		if index > f.all {
			f.all = index
			f.wakeAll()
		}
		return
	}
	n, ok := shardNumber(rev)
	if !ok || index <= f.shard[n] {
		return
	}
	f.shard[n] = index
	if f.in[n] != nil {
		close(f.in[n])
		f.in[n] = nil
	}
	f.wake()
}

func (f *feed) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *feed) wakeAll() {
	for n, ch := range f.in {
		if ch != nil {
			close(ch)
			f.in[n] = nil
		}
	}
	f.wake()
}

// poll reports whether something under prefix may have changed since the index after. If so, wait is nil. Otherwise
// wait is closed at the next change. index is the newest known index. ahead is true if after is above every index that
// is known here.
//
// If after is in the gap f.lost, wait is nil, and index is the last index before the gap. This does not apply if the
// newest known index is in the gap too: then indexes are given out again, and after may be valid.
func (f *feed) poll(prefix string, after uint64) (index uint64, wait <-chan struct{}, ahead bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost.holds(after) && !f.lost.holds(f.newest) {
		return f.lost.low, nil, false
	}
	last := f.all
	n, one := oneShard(prefix)
	if one {
		last = max(last, f.shard[n])
	} else {
		for _, i := range f.shard {
			last = max(last, i)
		}
	}
	live := strings.HasPrefix(prefix, store.LivePrefix)
	if live {
		last = max(last, f.live)
	}
	if last > after {
		return f.newest, nil, false
	}
	if !one || live {
		return f.newest, f.changed, after > f.newest
	}
	if f.in[n] == nil {
		f.in[n] = make(chan struct{})
	}
	return f.newest, f.in[n], after > f.newest
}

// Watch implements store.Store.
//
// A process has at most two blocking queries, for any number of callers and prefixes. The first one is on
// <prefix>/own/rev/, where every transaction writes the keys of the shards that it changed. The answer is at most 65
// small keys, however large the store is. The second one is on the keys under store.LivePrefix, because Consul itself
// deletes them when a session ends. Each query begins with the first watch that needs it, and is repeated until the
// store is closed.
//
// A prefix of two or more words belongs to one of 64 shards, according to its second word. So a watch of work/<node>/
// wakes for about one in 64 unrelated changes. A watch of a prefix of a single word wakes for every change.
//
// An answer of Consul shows the keys at a single moment. Every change up to the index of the answer is in this answer
// or in an earlier one. A transaction of this process raises the newest index before changes of other processes with
// lower indexes are known here. These changes were committed earlier, so a caller that reads after Watch sees them. So
// Watch never returns an index that covers a change which the caller then cannot read.
func (s *Store) Watch(ctx context.Context, prefix string, after uint64) (uint64, error) {
	if err := store.CheckPrefix(prefix); err != nil {
		return 0, err
	}
	if err := s.open(ctx); err != nil {
		return 0, err
	}
	if err := s.ready(ctx); err != nil {
		return 0, err
	}
	s.follow(&s.feed.revs, s.queryShards)
	if strings.HasPrefix(prefix, store.LivePrefix) {
		s.follow(&s.feed.lives, s.queryLive)
		// Wait for the first answer, which already includes the sessions that ended before.
		if err := s.awaitAnswer(ctx, &s.feed.lives, false); err != nil {
			return 0, err
		}
	}
	asked, was := false, after
	if after = 0; was > s.base.Load() {
		after = s.base.toConsul(was)
	}
	for {
		if err := s.open(ctx); err != nil {
			return 0, err
		}
		index, wait, ahead := s.feed.poll(prefix, after)
		if wait == nil {
			return s.base.fromConsul(index), nil
		}
		if ahead && asked {
			return s.base.fromConsul(index), nil // the store was replaced by an older copy
		}
		if ahead {
			if err := s.awaitAnswer(ctx, &s.feed.revs, true); err != nil {
				return 0, err
			}
			asked = true
			continue
		}
		if err := s.await(ctx, wait); err != nil {
			return 0, err
		}
	}
}

// await waits for a change, or for a query to fail.
func (s *Store) await(ctx context.Context, change <-chan struct{}) error {
	s.feed.mu.Lock()
	revs, lives := s.feed.revs.failed, s.feed.lives.failed
	s.feed.mu.Unlock()
	select {
	case <-change:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return store.ErrClosed
	case <-revs:
		return s.feed.failure(&s.feed.revs)
	case <-lives:
		return s.feed.failure(&s.feed.lives)
	}
	return nil
}

// failure returns why the last run of a query failed. It returns nil if the last run succeeded.
func (f *feed) failure(q *follower) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return q.err
}

// awaitAnswer waits until f has an answer. If now is true, the answer must be to a query that begins after this call.
func (s *Store) awaitAnswer(ctx context.Context, f *follower, now bool) error {
	s.feed.mu.Lock()
	need := uint64(1)
	if now {
		need = f.begun + 1
		f.noWaitUntil = need
		if f.cancel != nil {
			f.cancel()
		}
	}
	for f.applied < need {
		tried := f.tried
		s.feed.mu.Unlock()
		select {
		case <-tried:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ctx.Done():
			return store.ErrClosed
		}
		s.feed.mu.Lock()
		if f.applied < need && f.err != nil {
			err := f.err
			s.feed.mu.Unlock()
			return err
		}
	}
	s.feed.mu.Unlock()
	return nil
}
