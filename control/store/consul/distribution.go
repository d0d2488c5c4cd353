package consul

import (
	"maps"
	"strings"
	"sync"
)

const (
	// maxPart is the maximum number of keys in a part, about as many as in a page. A larger part is split.
	maxPart = 128
	// maxDistributions is the number of key distributions that are kept.
	maxDistributions = 256
	// The bytes that keys consist of: see store.CheckKey.
	firstByte, lastByte = '!', '~'
)

// keyDistribution records how the keys under a prefix were distributed when they were last read. Consul returns either
// all keys under a prefix or none. So a page is requested as one or more parts, each of which has at most about as
// many keys as a page. An outdated distribution makes a page more expensive, but never wrong, because the parts cover
// all possible keys.
type keyDistribution struct {
	count int
	next  map[byte]*keyDistribution // by the next byte of the key; nil if this is one part
}

// newKeyDistribution returns the distribution of sorted keys. The argument at is the length of the prefix that all of
// them have in common.
func newKeyDistribution(keys []string, at int) *keyDistribution {
	n := &keyDistribution{count: len(keys)}
	if len(keys) <= maxPart {
		return n
	}
	n.next = map[byte]*keyDistribution{}
	for len(keys) > 0 {
		if len(keys[0]) == at {
			keys = keys[1:]
			continue
		}
		b, end := keys[0][at], 1
		for end < len(keys) && keys[end][at] == b {
			end++
		}
		n.next[b] = newKeyDistribution(keys[:end], at+1)
		keys = keys[end:]
	}
	return n
}

// part is a set of keys: all keys with a prefix or, if alone is set, only the key that is equal to prefix.
type part struct {
	prefix string
	alone  bool
	count  int // number of keys according to the distribution
}

func (p part) holds(key string) bool {
	return key == p.prefix || !p.alone && strings.HasPrefix(key, p.prefix)
}

// end returns the first possible key after the part.
func (p part) end() string {
	if p.alone {
		return afterKey(p.prefix)
	}
	return afterPrefix(p.prefix)
}

// afterKey returns the smallest string that is larger than a key.
func afterKey(key string) string { return key + "\x00" }

// afterPrefix returns the smallest string that is larger than all keys with the prefix.
func afterPrefix(prefix string) string {
	if prefix == "" {
		return string(rune(lastByte + 1))
	}
	last := len(prefix) - 1
	return prefix[:last] + string(rune(prefix[last]+1))
}

// selection collects the parts that probably contain the first keys that are not below from.
type selection struct {
	from string
	want int // how many more keys the parts should contain
	list []part
}

// selectParts adds to t the parts into which the keys under prefix are divided, in order. It returns false once t has
// enough. Together the parts contain all keys from t.from up to the end of the last part.
func (n *keyDistribution) selectParts(prefix string, t *selection) bool {
	switch {
	case afterPrefix(prefix) <= t.from:
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
		if !n.next[b].selectParts(prefix+string(rune(b)), t) {
			return false
		}
	}
	return true
}

func (t *selection) add(p part) bool {
	t.list = append(t.list, p)
	if p.prefix >= t.from { // for a part that begins before t.from, the number of remaining keys is unknown
		t.want -= p.count
	}
	return t.want > 0 && len(t.list) < maxReads
}

// update records which keys a part really has. prefix is the prefix of the part, and n is the distribution of the keys
// with prefix[:at].
func (n *keyDistribution) update(prefix string, at int, keys []string) {
	switch {
	case at == len(prefix):
		*n = *newKeyDistribution(keys, at)
		return
	case n.next == nil:
		return // the part was merged meanwhile
	}
	kid := n.next[prefix[at]]
	if kid == nil {
		if len(keys) == 0 {
			return
		}
		kid = &keyDistribution{}
		n.next[prefix[at]] = kid
	}
	was := kid.count
	kid.update(prefix, at+1, keys)
	if n.count += kid.count - was; n.count <= maxPart/2 {
		n.next = nil
	}
}

// distributions contains the key distributions of the prefixes that pages were requested for.
type distributions struct {
	mu       sync.Mutex
	byPrefix map[string]*keyDistribution
}

func (s *distributions) has(prefix string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byPrefix[prefix] != nil
}

func (s *distributions) put(prefix string, n *keyDistribution) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byPrefix == nil {
		s.byPrefix = map[string]*keyDistribution{}
	}
	for some := range maps.Keys(s.byPrefix) {
		if len(s.byPrefix) < maxDistributions {
			break
		}
		delete(s.byPrefix, some)
	}
	s.byPrefix[prefix] = n
}

// selectParts returns the parts that together should contain the first want keys that are not below from. It returns at
// most as many parts as one transaction can read.
func (s *distributions) selectParts(prefix, from string, want int) []part {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := selection{from: from, want: want}
	s.byPrefix[prefix].selectParts(prefix, &t)
	return t.list
}

func (s *distributions) update(prefix string, p part, keys []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.byPrefix[prefix]; n != nil && !p.alone {
		n.update(p.prefix, len(prefix), keys)
	}
}
