// Package dump carries a store's records from one kind of store to another, by way of
// a file of JSON lines:
//
//	{"format":"drover store","version":1,"from":"bolt","cluster":"…"}
//	{"key":"names/db","value":{"id":"…"}}
//	{"key":"…","base64":"…"}
//	{"entries":2,"index":4711}
//	{"sha256":"…"}
//
// The first line says what it is, and whose: the cluster's identity goes along. Then
// come the keys in order, without those under store.LivePrefix; values that are
// compact JSON stand as they are. Then how many there are, and an index that none of
// the store's was above; and the checksum of all lines before makes it whole. Nothing
// is ever held in memory but a page.
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
	// clusterKey and markKey are the keys that are more to this package than keys:
	// the identity of the store (package control), and the mark of a Load that has
	// begun and not ended.
	clusterKey = "cluster/id"
	markKey    = "cluster/loading"
	// page is how many entries are read at once.
	page = 200
)

// Summary is what a dump holds.
type Summary struct {
	From    string    // the kind of store that it was made of
	Cluster uuid.UUID // the identity of that
	Entries int
	Volumes int
	Index   uint64 // at least the newest of that
	Sum     string // SHA-256, as the last line has it
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

// Save writes the records of a store of that kind to w. It reads them twice:
// dataset.ErrConflict when the store was changed meanwhile. dataset.ErrInUse when
// something works on it, dataset.ErrNotFound when it is empty. After an error, w
// holds nothing of use, and shows it.
func Save(ctx context.Context, st store.Store, kind string, w io.Writer) (Summary, error) {
	sum := Summary{From: kind}
	if err := idle(ctx, st); err != nil {
		return sum, err
	}
	if err := Whole(ctx, st); err != nil {
		return sum, err
	}
	var err error
	if sum.Cluster, err = clusterOf(ctx, st); err != nil {
		return sum, err
	}
	if sum.Cluster == uuid.Nil {
		return sum, dataset.Errorf(dataset.ErrNotFound,
			"the store is empty: no drover has ever worked on it (is it the right one?)")
	}
	out := &writer{w: w, hash: sha256.New()}
	if err := out.json(head{format, version, kind, sum.Cluster}); err != nil {
		return sum, err
	}
	seen, again := sha256.New(), sha256.New()
	err = each(ctx, st, func(e store.Entry) error {
		note(seen, e)
		sum.add(e.Key)
		sum.Index = max(sum.Index, e.Index)
		return out.entry(e)
	})
	if err != nil {
		return sum, err
	}
	// What was deleted is in no entry, and had indexes too.
	newest, err := st.Watch(ctx, "cluster/", 0)
	if err != nil {
		return sum, err
	}
	sum.Index = max(sum.Index, newest)
	if err := each(ctx, st, func(e store.Entry) error { note(again, e); return nil }); err != nil {
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

// note takes an entry as it is now into a hash: its index changes with it.
func note(h hash.Hash, e store.Entry) { fmt.Fprintln(h, e.Key, e.Index) }

// each calls fn with all entries that are dumped, in order.
func each(ctx context.Context, st store.Store, fn func(store.Entry) error) error {
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

// idle fails with dataset.ErrInUse when something works on the store.
func idle(ctx context.Context, st store.Store) error {
	list, err := st.List(ctx, store.LivePrefix, "", 1)
	if err == nil && len(list) > 0 {
		err = dataset.Errorf(dataset.ErrInUse,
			"something works on the store (%s): stop every drover of the cluster first; what was stopped or "+
				"killed is forgotten within a minute", list[0].Key)
	}
	return err
}

// clusterOf returns the identity of a store; zero for one that has none.
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

// identity reads the value of clusterKey.
func identity(value []byte) (uuid.UUID, error) {
	var c struct {
		ID uuid.UUID `json:"id"`
	}
	if err := json.Unmarshal(value, &c); err != nil || c.ID == uuid.Nil {
		return uuid.Nil, dataset.Errorf(dataset.ErrCorrupt, "store: %s says %.80q, which is no identity",
			clusterKey, value)
	}
	return c.ID, nil
}

// writer writes lines and sums them up.
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

// entry writes a value that is compact JSON byte for byte, which the encoder alone
// would not: it escapes some characters.
func (w *writer) entry(e store.Entry) error {
	if !asItIs(e.Value) {
		return w.json(line{Key: e.Key, Base64: e.Value})
	}
	key, err := json.Marshal(e.Key)
	if err != nil {
		return err
	}
	return w.line(fmt.Appendf(nil, `{"key":%s,"value":%s}`, key, e.Value))
}

// asItIs reports whether a value comes back from a line of JSON as it was.
func asItIs(value []byte) bool {
	var compact bytes.Buffer
	return json.Compact(&compact, value) == nil && bytes.Equal(compact.Bytes(), value) &&
		!bytes.Equal(value, []byte("null"))
}
