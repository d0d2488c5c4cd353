// Package dump transfers the records of a store to another kind of store, through a file of JSON lines:
//
//	{"format":"drover store","version":1,"from":"bolt","cluster":"…"}
//	{"key":"names/db","value":{"id":"…"}}
//	{"key":"…","base64":"…"}
//	{"entries":2,"index":4711}
//	{"sha256":"…"}
//
// The first line has the format and the identity of the cluster. Then the keys follow in order, without those under
// store.LivePrefix. A value that is compact JSON is written unchanged. The next line has the number of keys, and an
// index that is not below any index of the store. The last line has the checksum of all lines before it. Except in
// Read, no more than a page of entries is in memory at once.
//
// The package keeps no state. A store is in use if it has a key under store.LivePrefix. While Load runs, a mark in the
// store prevents other uses. A change of the format belongs in dump.go and read.go, with a new version.
package dump

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

const (
	format  = "drover store"
	version = 1
	// clusterKey and markKey are the only keys whose values this package interprets. clusterKey has the identity of the
	// store (record.ClusterKey), and markKey has the mark of an unfinished Load.
	clusterKey = "cluster/id"
	markKey    = "cluster/loading"
	// page is the number of entries that are read at once.
	page = 200
)

// Summary describes a dump.
type Summary struct {
	From    string    // the kind of the source store
	Cluster uuid.UUID // the identity of the source store
	Entries int
	Volumes int
	Index   uint64 // not below the newest index of that store
	Sum     string // SHA-256, as in the last line
}

type head struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	From    string    `json:"from"`
	Cluster uuid.UUID `json:"cluster"`
}

type line struct {
	Key    string          `json:"key"`
	Value  json.RawMessage `json:"value,omitempty"`
	Base64 []byte          `json:"base64,omitempty"`
}

type count struct {
	Entries *int   `json:"entries"`
	Index   uint64 `json:"index"`
}

type tail struct {
	Sum string `json:"sha256"`
}

// Save writes the records of a store to w. kind is the kind of the store. It reads the records twice, and fails with
// dataset.ErrConflict if the store was changed meanwhile, or if a Load into it did not end. It fails with
// dataset.ErrInUse if the store is in use, and with dataset.ErrNotFound if it is empty. After an error, the output is
// incomplete, and Check refuses it.
func Save(ctx context.Context, st store.Store, kind string, w io.Writer) (Summary, error) {
	sum := Summary{From: kind}
	if err := checkIdle(ctx, st); err != nil {
		return sum, err
	}
	if err := CheckComplete(ctx, st); err != nil {
		return sum, err
	}
	var err error
	if sum.Cluster, err = clusterOf(ctx, st); err != nil {
		return sum, err
	}
	if sum.Cluster == uuid.Nil {
		return sum, dataset.Errorf(dataset.ErrNotFound,
			"the store is empty: no drover has ever used it (check the address of the store)")
	}
	out := &writer{w: w, hash: sha256.New()}
	if err := out.json(head{format, version, kind, sum.Cluster}); err != nil {
		return sum, err
	}
	seen, again := sha256.New(), sha256.New()
	err = eachEntry(ctx, st, func(e store.Entry) error {
		hashEntry(seen, e)
		sum.add(e.Key)
		sum.Index = max(sum.Index, e.Index)
		return out.entry(e)
	})
	if err != nil {
		return sum, err
	}
	// Deleted keys had indexes too, but have no entry.
	newest, err := st.Watch(ctx, "cluster/", 0)
	if err != nil {
		return sum, err
	}
	sum.Index = max(sum.Index, newest)
	if err := eachEntry(ctx, st, func(e store.Entry) error { hashEntry(again, e); return nil }); err != nil {
		return sum, err
	}
	if !bytes.Equal(seen.Sum(nil), again.Sum(nil)) {
		return sum, dataset.Errorf(dataset.ErrConflict,
			"the store was changed while it was read: stop what works on it, then export it again")
	}
	if err := out.json(count{&sum.Entries, sum.Index}); err != nil {
		return sum, err
	}
	sum.Sum = hex.EncodeToString(out.hash.Sum(nil))
	return sum, out.json(tail{sum.Sum})
}

func (s *Summary) add(key string) {
	s.Entries++
	if strings.HasPrefix(key, "names/") {
		s.Volumes++
	}
}

// hashEntry adds an entry with its index to a hash, so that every write changes the hash.
func hashEntry(h hash.Hash, e store.Entry) { fmt.Fprintln(h, e.Key, e.Index) }

// eachEntry calls fn with all entries that belong to a dump, in order.
func eachEntry(ctx context.Context, st store.Store, fn func(store.Entry) error) error {
	for after := ""; ; {
		list, err := st.List(ctx, "", after, page)
		if err != nil {
			return err
		}
		for _, e := range list {
			after = e.Key
			if strings.HasPrefix(e.Key, store.LivePrefix) || e.Key == markKey {
				continue
			}
			if err := fn(e); err != nil {
				return err
			}
		}
		if len(list) < page {
			return nil
		}
	}
}

// checkIdle fails with dataset.ErrInUse if the store is in use.
func checkIdle(ctx context.Context, st store.Store) error {
	list, err := st.List(ctx, store.LivePrefix, "", 1)
	if err == nil && len(list) > 0 {
		err = dataset.Errorf(dataset.ErrInUse,
			"something works on the store (%s): stop every drover of the cluster first; what was stopped or "+
				"killed is forgotten within a minute", list[0].Key)
	}
	return err
}

// clusterOf returns the identity of a store, or the zero value if it has none.
func clusterOf(ctx context.Context, st store.Store) (id uuid.UUID, err error) {
	e, err := st.Get(ctx, clusterKey)
	if errors.Is(err, store.ErrNotFound) {
		return id, nil
	}
	if err != nil {
		return id, err
	}
	return identity(e.Value)
}

// identity decodes the value of clusterKey.
func identity(value []byte) (uuid.UUID, error) {
	var c struct {
		ID uuid.UUID `json:"id"`
	}
	if err := json.Unmarshal(value, &c); err != nil || c.ID == uuid.Nil {
		return uuid.Nil, dataset.Errorf(dataset.ErrCorrupt, "store: %s has the value %.80q, which is not an identity",
			clusterKey, value)
	}
	return c.ID, nil
}

// writer writes lines and computes their checksum.
type writer struct {
	w    io.Writer
	hash hash.Hash
}

func (w *writer) json(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.line(b)
}

func (w *writer) line(b []byte) error {
	b = append(b, '\n')
	w.hash.Write(b)
	_, err := w.w.Write(b)
	return err
}

// entry writes a value that is compact JSON unchanged. The encoder itself would escape some characters.
func (w *writer) entry(e store.Entry) error {
	if !isPlainText(e.Value) {
		return w.json(line{Key: e.Key, Base64: e.Value})
	}
	key, err := json.Marshal(e.Key)
	if err != nil {
		return err
	}
	return w.line(fmt.Appendf(nil, `{"key":%s,"value":%s}`, key, e.Value))
}

// isPlainText reports whether a value can be read back unchanged from a line of JSON.
func isPlainText(value []byte) bool {
	var compact bytes.Buffer
	return json.Compact(&compact, value) == nil && bytes.Equal(compact.Bytes(), value) &&
		!bytes.Equal(value, []byte("null"))
}

// Records are the records of a store at one moment. All of them are in memory.
type Records struct {
	summary Summary
	entries []store.Entry
}

// Read reads the records of a store that is in use. kind is the kind of the store. It fails with dataset.ErrConflict if
// a Load into the store did not end, and with dataset.ErrNotFound if the store is empty.
//
// Load accepts the dump of a store in use. The clock of the store is then older than the one that agents and replicas
// have seen, unless nothing has changed since. So the store counts as restored from an older backup.
func Read(ctx context.Context, st store.Store, kind string) (Records, error) {
	r := Records{summary: Summary{From: kind}}
	if err := CheckComplete(ctx, st); err != nil {
		return r, err
	}
	all, err := st.List(ctx, "", "", 0) // without a limit, all entries are from the same moment
	if err != nil {
		return r, err
	}
	for _, e := range all {
		if strings.HasPrefix(e.Key, store.LivePrefix) || e.Key == markKey {
			continue
		}
		if e.Key == clusterKey {
			if r.summary.Cluster, err = identity(e.Value); err != nil {
				return r, err
			}
		}
		r.entries = append(r.entries, e)
		r.summary.add(e.Key)
		r.summary.Index = max(r.summary.Index, e.Index)
	}
	if r.summary.Cluster == uuid.Nil {
		return r, dataset.Errorf(dataset.ErrNotFound, "the store is empty")
	}
	newest, err := st.Watch(ctx, "cluster/", 0) // deleted keys had indexes too, but have no entry
	r.summary.Index = max(r.summary.Index, newest)
	return r, err
}

// Summary describes the records. It has no checksum.
func (r Records) Summary() Summary { return r.summary }

// Digest returns a checksum of the records, except those whose key begins with one of the prefixes.
func (r Records) Digest(except ...string) string {
	h := sha256.New()
next:
	for _, e := range r.entries {
		for _, prefix := range except {
			if strings.HasPrefix(e.Key, prefix) {
				continue next
			}
		}
		fmt.Fprintf(h, "%d %s %d ", len(e.Key), e.Key, len(e.Value))
		h.Write(e.Value)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Write writes the dump of the records.
func (r Records) Write(w io.Writer) error {
	out := &writer{w: w, hash: sha256.New()}
	if err := out.json(head{format, version, r.summary.From, r.summary.Cluster}); err != nil {
		return err
	}
	for _, e := range r.entries {
		if err := out.entry(e); err != nil {
			return err
		}
	}
	if err := out.json(count{&r.summary.Entries, r.summary.Index}); err != nil {
		return err
	}
	return out.json(tail{hex.EncodeToString(out.hash.Sum(nil))})
}
