package dump_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/dump"
	"github.com/droverhq/drover/dataset"
)

// failing makes all transactions fail after the given number.
type failing struct {
	closer
	left int
}

var errAway = errors.New("away")

func (f *failing) Txn(ctx context.Context, checks []store.Precondition, writes []store.Write) (uint64, error) {
	if f.left--; f.left < 0 {
		return 0, errAway
	}
	return f.closer.Txn(ctx, checks, writes)
}

// A load that is interrupted anywhere leaves a store on which nothing may work. The same dump completes it. Another
// dump does not, unless the caller asks to replace the contents.
func TestCutShort(t *testing.T) {
	from, others := file(t), file(t)
	entries := some()
	for n := range 400 {
		entries[fmt.Sprintf("datasets/%d", n)] = `{"n":1}`
	}
	put(t, from, entries)
	put(t, others, some())
	b, other := save(t, from), save(t, others)
	for left := 1; ; left++ {
		to := file(t)
		put(t, to, map[string]string{"a/b": "1", "cluster/id": `{"id":"` + uuid.NewString() + `"}`})
		_, err := dump.Load(t.Context(), &failing{to, left}, bytes.NewReader(b), true)
		if err == nil {
			if left < 5 {
				t.Fatalf("it took %d transactions", left)
			}
			return
		}
		if !errors.Is(err, errAway) {
			t.Fatal(err)
		}
		says(t, dump.CheckComplete(t.Context(), to), dataset.ErrConflict, "cut short", "same file")
		_, err = dump.Save(t.Context(), to, "bolt", io.Discard)
		says(t, err, dataset.ErrConflict, "cut short")
		_, err = dump.Load(t.Context(), to, bytes.NewReader(other), false)
		says(t, err, dataset.ErrConflict, "cut short")
		if left%2 == 0 {
			copied(t, other, others, to, true)
		} else {
			copied(t, b, from, to, false)
		}
	}
}

// busy is a store that somebody writes to while it is read.
type busy struct {
	store.Store
	write store.Write
	pages int
	limit int // the largest size that was requested
}

func (b *busy) List(ctx context.Context, prefix, after string, limit int) ([]store.Entry, error) {
	if b.pages--; b.pages == 0 {
		if _, err := b.Store.Txn(ctx, nil, []store.Write{b.write}); err != nil {
			return nil, err
		}
	}
	if b.limit = max(b.limit, limit); limit == 0 {
		b.limit = 1 << 30
	}
	return b.Store.List(ctx, prefix, after, limit)
}

func TestChangedMeanwhile(t *testing.T) {
	from := file(t)
	entries := some()
	for n := range 900 {
		entries[fmt.Sprintf("datasets/%03d", n)] = `{"n":1}`
	}
	put(t, from, entries)
	// The first page is of live records, 5 more are written, and 5 are compared.
	for _, c := range []struct {
		page  int
		write store.Write
	}{
		{5, store.Write{Key: "datasets/001", Value: []byte(`{"n":1}`)}}, // the same bytes
		{5, store.Write{Key: "a", Value: []byte(`{}`)}},
		{8, store.Write{Key: "names/c", Value: []byte(`{}`)}},
		{8, store.Write{Key: "names/c", Delete: true}},
	} {
		s := &busy{Store: from, write: c.write, pages: c.page}
		_, err := dump.Save(t.Context(), s, "bolt", io.Discard)
		says(t, err, dataset.ErrConflict, "changed while it was read")
		if s.limit > 1000 {
			t.Errorf("it read %d entries at once", s.limit)
		}
	}
}

// Of two concurrent loads, one fails with an error, and the store has one complete dump.
func TestTwoAtOnce(t *testing.T) {
	from, to := file(t), file(t)
	put(t, from, some())
	b := save(t, from)
	meddled := &meddling{closer: to, dump: b, t: t}
	_, err := dump.Load(t.Context(), meddled, bytes.NewReader(b), true)
	says(t, err, dataset.ErrConflict, "another program changes the store")
	copied(t, b, from, to, true)
}

// meddling runs a Load before the third transaction.
type meddling struct {
	closer
	dump []byte
	n    int
	t    *testing.T
}

func (m *meddling) Txn(ctx context.Context, checks []store.Precondition, writes []store.Write) (uint64, error) {
	if m.n++; m.n == 2 {
		if _, err := dump.Load(ctx, m.closer, bytes.NewReader(m.dump), true); err != nil {
			m.t.Error(err)
		}
	}
	return m.closer.Txn(ctx, checks, writes)
}
