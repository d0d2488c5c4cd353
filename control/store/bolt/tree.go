package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"io"
)

// The format of a bbolt file, version 2, in the byte order of the host (go.etcd.io/bbolt, internal/common: page.go,
// meta.go, bucket.go). A page begins with its number, its kind, the number of its elements, and the number of its
// overflow pages.
const (
	pageHead = 16

	isBranch   = 0x01
	isLeaf     = 0x02
	isFreelist = 0x10

	elementHead = 16 // branch: position, key size, page; leaf: flags, position, key size, value size
	bucketHead  = 16 // root page (0: the bucket's only page follows inline), sequence
	bucketFlag  = 0x01

	metaMagic   = 0xED0CDAED
	metaVersion = 2
	metaSum     = 56 // the offset of its checksum
	noFreelist  = 1<<64 - 1

	maxDepth = 32
)

var native = binary.NativeEndian

// tree reads the pages of a file, each of them at most once.
type tree struct {
	r     io.ReaderAt
	pages uint64 // pages of the file, used and free
	seen  []bool
	bufs  [maxDepth][]byte // one page of each level
}

// element is one key of a leaf. It is valid until the visit returns.
type element struct {
	key, value []byte
	bucket     bool
}

// newTree returns the root page of the newest valid meta page. Two meta pages are at the start of the file, and commits
// write them alternately.
func newTree(r io.ReaderAt, size int64) (*tree, uint64, error) {
	t := &tree{r: r}
	var newest, root, freelist uint64
	sound := false
	for i := range int64(2) {
		page := make([]byte, pageSize)
		if _, err := r.ReadAt(page, i*pageSize); errors.Is(err, io.EOF) {
			return nil, 0, corrupt("it ends after %d bytes", size)
		} else if err != nil {
			return nil, 0, err
		}
		// magic, version, page size, flags, root, its sequence, freelist, pages, transaction, checksum
		m := page[pageHead:]
		sum := fnv.New64a()
		sum.Write(m[:metaSum])
		if native.Uint32(m) != metaMagic || native.Uint32(m[4:]) != metaVersion ||
			native.Uint64(m[metaSum:]) != sum.Sum64() {
			continue
		}
		if n := native.Uint32(m[8:]); n != pageSize {
			return nil, 0, corrupt("it has pages of %d bytes", n)
		}
		if txid := native.Uint64(m[48:]); !sound || txid > newest {
			sound = true
			newest, root, freelist, t.pages = txid, native.Uint64(m[16:]), native.Uint64(m[32:]), native.Uint64(m[40:])
		}
	}
	switch {
	case !sound:
		return nil, 0, corrupt("it has no sound meta page")
	case t.pages > uint64(size)/pageSize:
		return nil, 0, corrupt("it was cut off: %d bytes are too few for %d pages", size, t.pages)
	}
	t.seen = make([]bool, t.pages)
	if freelist == noFreelist {
		return t, root, nil
	}
	return t, root, t.freelist(freelist)
}

// page reads a page with its overflow pages, and marks them as seen.
func (t *tree) page(id uint64, depth int) ([]byte, error) {
	if depth >= maxDepth {
		return nil, corrupt("page %d lies too deep", id)
	}
	if err := t.markSeen(id); err != nil {
		return nil, err
	}
	if t.bufs[depth] == nil {
		t.bufs[depth] = make([]byte, pageSize)
	}
	p := t.bufs[depth][:pageSize]
	if _, err := t.r.ReadAt(p, int64(id)*pageSize); err != nil {
		return nil, err
	}
	if native.Uint64(p) != id {
		return nil, corrupt("page %d says that it is %d", id, native.Uint64(p))
	}
	more := uint64(native.Uint32(p[12:]))
	if more == 0 {
		return p, nil
	}
	for i := range more {
		if err := t.markSeen(id + 1 + i); err != nil {
			return nil, err
		}
	}
	if size := (more + 1) * pageSize; uint64(cap(p)) < size {
		p = append(make([]byte, 0, size), p...)
	}
	p = p[:(more+1)*pageSize]
	t.bufs[depth] = p
	_, err := t.r.ReadAt(p[pageSize:], int64(id+1)*pageSize)
	return p, err
}

func (t *tree) markSeen(id uint64) error {
	switch {
	case id < 2 || id >= t.pages:
		return corrupt("there is no page %d", id)
	case t.seen[id]:
		return corrupt("page %d is used twice", id)
	}
	t.seen[id] = true
	return nil
}

// freelist marks the free pages of the file as seen, so that a page that is both free and used is detected. New
// files, and files that other tools have written, have such a list.
func (t *tree) freelist(id uint64) error {
	p, err := t.page(id, 0)
	if err != nil {
		return err
	}
	if flags := native.Uint16(p[8:]); flags != isFreelist {
		return corrupt("page %d is no list of free pages", id)
	}
	count, ids := uint64(native.Uint16(p[10:])), p[pageHead:]
	if count == 0xFFFF { // too many for the field in the page's head
		count, ids = native.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids))/8 {
		return corrupt("page %d lists %d free pages", id, count)
	}
	for i := range count {
		if err := t.markSeen(native.Uint64(ids[8*i:])); err != nil {
			return err
		}
	}
	return nil
}

// bucket reads a bucket. head is its entry in the root bucket.
func (t *tree) bucket(head []byte, visit func(element) error) error {
	if len(head) < bucketHead {
		return corrupt("a bucket's head has %d bytes", len(head))
	}
	if root := native.Uint64(head); root != 0 {
		return t.walk(root, visit)
	}
	p := head[bucketHead:]
	if len(p) < pageHead || native.Uint16(p[8:]) != isLeaf {
		return corrupt("a bucket has no page")
	}
	_, err := leaf(p, bounds{}, visit)
	return err
}

// bounds are the bounds of the keys that a page may contain: low <= key < high. nil means no bound.
type bounds struct{ low, high []byte }

func (b bounds) contain(key []byte) bool {
	return bytes.Compare(key, b.low) >= 0 && (b.high == nil || bytes.Compare(key, b.high) < 0)
}

func (t *tree) walk(root uint64, visit func(element) error) error {
	_, err := t.subtree(root, 0, bounds{}, visit)
	return err
}

// subtree visits all elements below a page and returns the largest key.
func (t *tree) subtree(id uint64, depth int, keys bounds, visit func(element) error) ([]byte, error) {
	p, err := t.page(id, depth)
	if err != nil {
		return nil, err
	}
	switch native.Uint16(p[8:]) {
	case isLeaf:
		return leaf(p, keys, visit)
	case isBranch:
		return t.branch(p, id, depth, keys, visit)
	}
	return nil, corrupt("page %d is of no kind that belongs there", id)
}

func (t *tree) branch(p []byte, id uint64, depth int, keys bounds, visit func(element) error) ([]byte, error) {
	count := int(native.Uint16(p[10:]))
	if count == 0 || pageHead+count*elementHead > len(p) {
		return nil, corrupt("page %d has %d branches", id, count)
	}
	key := func(i int) ([]byte, bool) {
		at := pageHead + i*elementHead
		return slice(p, at, native.Uint32(p[at:]), native.Uint32(p[at+4:]))
	}
	var largest []byte
	for i := range count {
		low, ok := key(i)
		if !ok || !keys.contain(low) || i > 0 && bytes.Compare(low, largest) <= 0 {
			return nil, corrupt("page %d has keys in no order", id)
		}
		below := bounds{low, keys.high}
		if i+1 < count {
			if below.high, ok = key(i + 1); !ok {
				return nil, corrupt("page %d has a key outside of itself", id)
			}
		}
		last, err := t.subtree(native.Uint64(p[pageHead+i*elementHead+8:]), depth+1, below, visit)
		if err != nil {
			return nil, err
		}
		largest = append(largest[:0], last...)
	}
	return largest, nil
}

// leaf visits the elements of a leaf and returns the last key.
func leaf(p []byte, keys bounds, visit func(element) error) ([]byte, error) {
	count := int(native.Uint16(p[10:]))
	if pageHead+count*elementHead > len(p) {
		return nil, corrupt("a page has %d elements", count)
	}
	var last []byte
	for i := range count {
		at := pageHead + i*elementHead
		flags, pos, ksize, vsize := native.Uint32(p[at:]), native.Uint32(p[at+4:]), native.Uint32(p[at+8:]),
			native.Uint32(p[at+12:])
		key, ok := slice(p, at, pos, ksize)
		if !ok || !keys.contain(key) || i > 0 && bytes.Compare(key, last) <= 0 {
			return nil, corrupt("a page has keys in no order")
		}
		value, ok := slice(p, at+int(ksize), pos, vsize)
		if !ok || flags&^bucketFlag != 0 {
			return nil, corrupt("the value of %.40q lies outside of its page", key)
		}
		if err := visit(element{key, value, flags == bucketFlag}); err != nil {
			return nil, err
		}
		last = key
	}
	return last, nil
}

// slice returns size bytes of p, from pos bytes after at.
func slice(p []byte, at int, pos, size uint32) ([]byte, bool) {
	from := int64(at) + int64(pos)
	if from+int64(size) > int64(len(p)) {
		return nil, false
	}
	return p[from : from+int64(size)], true
}
