package bolt

import (
	"bytes"
	"encoding/binary"
	"io"
	"strconv"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// contents is the content of a file.
type contents struct {
	schema  int // 0 if bbolt created the file, and nothing was written yet
	index   uint64
	indexed bool
	entries int
	damaged int // records that do not parse
}

// errNewer is the error for a file that a newer Drover wrote. Its value is the schema of the file.
type errNewer string

func (e errNewer) Error() string { return "schema " + string(e) }

// check reads the tree of a bbolt file from its newest meta page with plain reads, checks every bound, and reads the
// content of the buckets. It fails with dataset.ErrCorrupt if the structure is damaged. It only counts damaged records,
// because the others can still be used. If check succeeds, bbolt can walk the tree without a panic.
func check(r io.ReaderAt, size int64) (contents, error) {
	t, root, err := newTree(r, size)
	if err != nil {
		return contents{}, err
	}
	var c contents
	buckets := map[string][]byte{}
	err = t.walk(root, func(e element) error {
		if !e.bucket {
			return corrupt("key %q is outside of all buckets", e.key)
		}
		buckets[string(e.key)] = bytes.Clone(e.value)
		return nil
	})
	if err != nil || len(buckets) == 0 {
		return contents{}, err
	}
	visit := map[string]func(element) error{bucketMeta: c.readMeta, bucketData: c.readData, bucketBound: readBound}
	for _, name := range []string{bucketMeta, bucketData, bucketBound} {
		head, ok := buckets[name]
		if !ok || len(buckets) != len(visit) {
			return contents{}, corrupt("it has other buckets than a store")
		}
		if err := t.bucket(head, visit[name]); err != nil {
			return contents{}, err
		}
	}
	if c.schema == 0 || !c.indexed {
		return contents{}, corrupt("it has no schema or no index")
	}
	return c, nil
}

func (c *contents) readMeta(e element) error {
	if e.bucket {
		return corrupt("it has an unknown bucket %.40q among its own keys", e.key)
	}
	switch string(e.key) {
	case keySchema:
		n, err := strconv.Atoi(string(e.value))
		if err != nil || n < 1 {
			return corrupt("its schema is %.20q", e.value)
		}
		if n > schema {
			return errNewer(e.value)
		}
		c.schema = n
	case keyIndex:
		if len(e.value) != 8 {
			return corrupt("its index has %d bytes", len(e.value))
		}
		c.index, c.indexed = binary.BigEndian.Uint64(e.value), true
	default:
		return corrupt("it has an unknown %.40q among its own keys", e.key)
	}
	return nil
}

func (c *contents) readData(e element) error {
	key := string(e.key)
	if store.CheckKey(key) != nil || e.bucket {
		return corrupt("%.40q is no key of a store", key)
	}
	c.entries++
	r, err := parseRecord(key, e.value)
	if err != nil {
		c.damaged++
		return nil
	}
	if r.index == 0 || r.index > c.index {
		return corrupt("%s has index %d, of %d", key, r.index, c.index)
	}
	return nil
}

func readBound(e element) error {
	session, key, ok := bytes.Cut(e.key, []byte{0})
	if !ok || len(session) > maxSession || store.CheckKey(string(key)) != nil || e.bucket {
		return corrupt("%.40q binds nothing to a session", e.key)
	}
	return nil
}

func corrupt(format string, args ...any) error {
	return dataset.Errorf(dataset.ErrCorrupt, format, args...)
}
