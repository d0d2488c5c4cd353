package consul

import (
	"maps"
	"strings"
	"sync"
)

const (
	// partMost is how many keys a part holds that is not split: about a page.
	partMost = 128
	// spreadsMost is how many spreads are kept.
	spreadsMost = 256
	// The bytes that keys are made of: see store.CheckKey.
	firstByte, lastByte = '!', '~'
)

// spread is how the keys under a prefix were spread when they were last looked at,
// so that a page can be requested in parts of about a page: Consul returns all keys under a prefix or none.
// It is a guess. Its parts cover every key that there can be, so a wrong guess makes a page dearer, never
// wrong.
type spread struct {
	count int
	next  map[byte]*spread // by the byte that follows; without an entry: none. nil: one part
}

// newSpread takes the sorted keys that have their first at bytes in common.
func newSpread(keys []string, at int) *spread {
	n := &spread{count: len(keys)}
	if len(keys) <= partMost {
		return n
	}
	n.next = map[byte]*spread{}
	for len(keys) > 0 {
		if len(keys[0]) == at {
			keys = keys[1:]
			continue
		}
		b, end := keys[0][at], 1
		for end < len(keys) && keys[end][at] == b {
			end++
		}
		n.next[b] = newSpread(keys[:end], at+1)
		keys = keys[end:]
	}
	return n
}

// part is all keys that begin with a prefix, or one key alone.
type part struct {
	prefix string
	alone  bool
	count  int // as the spread has it
}

func (p part) holds(key string) bool {
	return key == p.prefix || !p.alone && strings.HasPrefix(key, p.prefix)
}

// end is the first key after the part.
func (p part) end() string {
	if p.alone {
		return next(p.prefix)
	}
	return beyond(p.prefix)
}

// next is the smallest string that is larger than a key.
func next(key string) string { return key + "\x00" }

// beyond is the smallest string that is larger than all keys with the prefix.
func beyond(prefix string) string {
	if prefix == "" {
		return string(rune(lastByte + 1))
	}
	last := len(prefix) - 1
	return prefix[:last] + string(rune(prefix[last]+1))
}

// taking is a choice of the parts that should hold the next keys from one on.
type taking struct {
	from string
	want int // keys
	list []part
}

// take adds parts of the keys under prefix, in order, and reports whether more are wanted. Together they hold
// all keys from t.from up to the end of the last.
func (n *spread) take(prefix string, t *taking) bool {
	switch {
	case beyond(prefix) <= t.from:
		return true
	case n == nil:
		return t.add(part{prefix: prefix})
	case n.next == nil || n.count <= t.want:
		return t.add(part{prefix: prefix, count: n.count})
	case prefix >= t.from && prefix != "" && !strings.HasSuffix(prefix, "/") &&
		!t.add(part{prefix: prefix, alone: true}):
		return false
	}
	for b := byte(firstByte); b <= lastByte; b++ {
		if !n.next[b].take(prefix+string(rune(b)), t) {
			return false
		}
	}
	return true
}

func (t *taking) add(p part) bool {
	t.list = append(t.list, p)
	if p.prefix >= t.from { // otherwise it is unknown how much of it is left
		t.want -= p.count
	}
	return t.want > 0 && len(t.list) < maxReads
}

// learn notes the keys of a part.
func (n *spread) learn(prefix string, at int, keys []string) {
	switch {
	case at == len(prefix):
		*n = *newSpread(keys, at)
		return
	case n.next == nil:
		return // it was joined meanwhile
	}
	kid := n.next[prefix[at]]
	if kid == nil {
		if len(keys) == 0 {
			return
		}
		kid = &spread{}
		n.next[prefix[at]] = kid
	}
	was := kid.count
	kid.learn(prefix, at+1, keys)
	if n.count += kid.count - was; n.count <= partMost/2 {
		n.next = nil
	}
}

// spreads are those of the prefixes that pages were asked of.
type spreads struct {
	mu sync.Mutex
	of map[string]*spread
}

func (s *spreads) has(prefix string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of[prefix] != nil
}

func (s *spreads) put(prefix string, n *spread) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = map[string]*spread{}
	}
	for some := range maps.Keys(s.of) {
		if len(s.of) < spreadsMost {
			break
		}
		delete(s.of, some)
	}
	s.of[prefix] = n
}

// take returns the next parts from a key on: those that should hold as many keys
// as are wanted, but no more parts than one transaction reads.
func (s *spreads) take(prefix, from string, want int) []part {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := taking{from: from, want: want}
	s.of[prefix].take(prefix, &t)
	return t.list
}

func (s *spreads) learn(prefix string, p part, keys []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.of[prefix]; n != nil && !p.alone {
		n.learn(p.prefix, len(prefix), keys)
	}
}
