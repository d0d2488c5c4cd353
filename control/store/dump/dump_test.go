package dump_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/control/store/consul"
	"github.com/droverhq/drover/control/store/dump"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/test/assert"
	consultest "github.com/droverhq/drover/test/consul"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type closer interface {
	store.Store
	store.Raiser
}

func file(tb testing.TB) closer {
	tb.Helper()
	s, err := bolt.Open(tb.Context(), filepath.Join(tb.TempDir(), "store.db"), bolt.Options{Clock: clock.System{}})
	require.NoError(tb, err)
	return closing(tb, s)
}

func closing(tb testing.TB, s closer) closer {
	tb.Cleanup(func() {
		assert.NoError(tb, s.Close())
	})
	return s
}

func put(tb testing.TB, s store.Store, entries map[string]string) {
	tb.Helper()
	var writes []store.Write
	for k, v := range entries {
		writes = append(writes, store.Write{Key: k, Value: []byte(v)})
	}
	for some := range slices.Chunk(writes, 100) {
		_, err := s.Txn(tb.Context(), nil, some)
		require.NoError(tb, err)
	}
}

// held is the contents of a store; newest is the largest index.
func held(tb testing.TB, s store.Store) (values map[string]string, newest uint64) {
	tb.Helper()
	list, err := s.List(tb.Context(), "", "", 0)
	require.NoError(tb, err)
	values = map[string]string{}
	for _, e := range list {
		values[e.Key], newest = string(e.Value), max(newest, e.Index)
	}
	return values, newest
}

const cluster = "6ad6dd0e-2f05-4f54-9b57-6e5d7ea0a9c1"

// some returns the records of a small store.
func some() map[string]string {
	return map[string]string{
		"cluster/id": `{"id":"` + cluster + `"}`,
		"names/a":    `{"id":"3f0e0cd5-8a1f-4e9f-a3c4-111111111111"}`,
		"names/b":    `{"id":"3f0e0cd5-8a1f-4e9f-a3c4-222222222222"}`,
		"odd/empty":  "",
		"odd/spaces": `{ "a": 1 }`,
		"odd/signs":  `{"a":"<&>` + "\u2028" + `","b":1e400,"c":"\u0041"}`,
		"odd/null":   "null",
		"odd/binary": "\x00\xff\n\"",
		"odd/broken": "{\"a\":\"\xff\"}",
	}
}

func save(tb testing.TB, s store.Store) []byte {
	tb.Helper()
	var b bytes.Buffer
	sum, err := dump.Save(tb.Context(), s, "bolt", &b)
	require.NoError(tb, err)
	checked, err := dump.Check(bytes.NewReader(b.Bytes()))
	if diff := cmp.Diff(sum, checked); diff != "" || err != nil {
		tb.Fatalf("what was written is not what is read: %v %s", err, diff)
	}
	return b.Bytes()
}

// copied loads a dump and checks that the store has its contents, at indexes above the old ones.
func copied(tb testing.TB, b []byte, from, to store.Store, replace bool) {
	tb.Helper()
	_, err := dump.Load(tb.Context(), to, bytes.NewReader(b), replace)
	require.NoError(tb, err)
	old, last := held(tb, from)
	now, _ := held(tb, to)
	if diff := cmp.Diff(old, now); diff != "" {
		tb.Fatal(diff)
	}
	list, err := to.List(tb.Context(), "", "", 0)
	require.NoError(tb, err)
	for _, e := range list {
		if e.Index <= last {
			tb.Fatalf("%s has index %d, and the old store was at %d", e.Key, e.Index, last)
		}
	}
	require.NoError(tb, dump.CheckComplete(tb.Context(), to))
}

// The records of every kind of store are restored from a dump, byte for byte.
func TestRoundTrip(t *testing.T) {
	from, to := file(t), file(t)
	word := rapid.StringMatching(`[a-z!"<&>~-]{1,8}`)
	rapid.Check(t, func(r *rapid.T) {
		old, _ := held(t, from)
		for k := range old {
			_, err := from.Txn(t.Context(), nil, []store.Write{{Key: k, Delete: true}})
			require.NoError(r, err)
		}
		entries := rapid.MapOfN(rapid.Custom(func(r *rapid.T) string {
			return word.Draw(r, "family") + "/" + word.Draw(r, "key")
		}), rapid.OneOf(
			rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
			rapid.StringMatching(`\{"[a-z<]{1,5}":("[^"\\]{0,9}"|[0-9]{1,3}|null|\[1, ?2\])\}`),
		), 0, 30).Draw(r, "entries")
		for k, v := range some() {
			entries[k] = v
		}
		put(t, from, entries)
		copied(t, save(t, from), from, to, true)
	})
}

// A dump goes from a file to Consul and back. It is larger than a transaction and a page, and replaces existing
// contents.
func TestBetweenFileAndConsul(t *testing.T) {
	c := consultest.Start(t, consultest.Options{})
	o := consul.Options{Addresses: c.Addresses(), Prefix: "p", Clock: clock.System{}}
	opened, err := consul.Open(o)
	require.NoError(t, err)
	one, shared, other := file(t), closing(t, opened), file(t)
	put(t, one, some())
	for n := range 5 {
		var writes []store.Write
		for i := range 100 {
			writes = append(writes, store.Write{Key: fmt.Sprintf("datasets/%d%02d", n, i), Value: bytes.Repeat([]byte("x"), 30*i)})
		}
		put(t, one, map[string]string{fmt.Sprintf("large/%d", n): string(make([]byte, store.MaxValue))})
		_, err := one.Txn(t.Context(), nil, writes)
		require.NoError(t, err)
	}
	require.NoError(t, one.Raise(t.Context(), 1_000_000))
	b := save(t, one)
	copied(t, b, one, shared, false)
	// Another process sees the same indexes.
	again, err := consul.Open(o)
	require.NoError(t, err)
	closing(t, again)
	for _, s := range []store.Store{shared, again} {
		e, err := s.Get(t.Context(), "names/a")
		if err != nil || e.Index <= 1_000_000 {
			t.Errorf("%+v, %v", e, err)
		}
		if _, err := s.Txn(t.Context(), []store.Precondition{{Key: "names/a", Index: e.Index}}, []store.Write{{Key: "names/a", Value: []byte("{}")}}); err != nil {
			t.Error(err)
		}
	}
	put(t, other, map[string]string{"cluster/id": `{"id":"` + uuid.NewString() + `"}`, "names/else": "{}", "z": "z"})
	copied(t, save(t, shared), shared, other, true)

	id, err := shared.Session(t.Context(), 10e9)
	require.NoError(t, err)
	_, err = shared.Txn(t.Context(), nil, []store.Write{{Key: "live/nodes/x", Session: id}})
	require.NoError(t, err)
	_, err = dump.Load(t.Context(), again, bytes.NewReader(b), true)
	says(t, err, dataset.ErrInUse, "live/nodes/x", "stop every drover")
	_, err = dump.Save(t.Context(), again, "consul", io.Discard)
	says(t, err, dataset.ErrInUse, "live/nodes/x")
}

func says(t *testing.T, err error, kind *dataset.Kind, words ...string) {
	t.Helper()
	if dataset.KindOf(err) != kind {
		t.Errorf("%v: want %v", err, kind)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: does not say %q in one line", err, w)
		}
	}
}

func TestRefused(t *testing.T) {
	empty, full := file(t), file(t)
	_, err := dump.Save(t.Context(), empty, "bolt", io.Discard)
	says(t, err, dataset.ErrNotFound, "empty")
	put(t, full, some())
	b := save(t, full)
	before, _ := held(t, full)
	_, err = dump.Load(t.Context(), full, bytes.NewReader(b), false)
	says(t, err, dataset.ErrExists, cluster, "2 volumes", "--force")
	if after, _ := held(t, full); cmp.Diff(before, after) != "" {
		t.Error("it was changed:", cmp.Diff(before, after))
	}
}

// A dump that is damaged or truncated anywhere, or no dump at all, is refused before anything is written.
func TestDamaged(t *testing.T) {
	from, to := file(t), file(t)
	put(t, from, some())
	good := save(t, from)
	for name, b := range map[string][]byte{
		"empty": nil, "no json": []byte("SQLite format 3\x00"), "other json": []byte(`{"a":1}` + "\n"), "long": bytes.Repeat([]byte("x"), 2<<20),
	} {
		_, err := dump.Load(t.Context(), to, bytes.NewReader(b), true)
		if dataset.KindOf(err) != dataset.ErrInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	newer := bytes.Replace(good, []byte(`"version":1`), []byte(`"version":2`), 1)
	_, err := dump.Load(t.Context(), to, bytes.NewReader(newer), true)
	says(t, err, dataset.ErrUnsupported, "version 2")
	for n := range good {
		if n > 0 {
			_, err := dump.Load(t.Context(), to, bytes.NewReader(good[:n]), true)
			if k := dataset.KindOf(err); k != dataset.ErrCorrupt && k != dataset.ErrInvalid {
				t.Fatalf("cut off after %d bytes: %v", n, err)
			}
		}
		bad := bytes.Clone(good)
		bad[n] ^= 1
		if _, err := dump.Load(t.Context(), to, bytes.NewReader(bad), true); err == nil {
			t.Fatalf("byte %d was %q, and is %q: it was taken", n, good[n], bad[n])
		}
	}
	_, err = dump.Check(bytes.NewReader(append(bytes.Clone(good), good...)))
	says(t, err, dataset.ErrCorrupt, "should be the last")
	if left, _ := held(t, to); len(left) != 0 {
		t.Errorf("it holds %v", left)
	}
}

func FuzzCheck(f *testing.F) {
	s := file(f)
	put(f, s, some())
	f.Add(save(f, s))
	f.Add([]byte(`{"format":"drover store","version":1}` + "\n" + `{"key":"a","value":{}}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := dump.Check(bytes.NewReader(b))
		if err == nil && !bytes.Contains(b, []byte(`"sha256"`)) {
			t.Error("it has no checksum, and was taken")
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("more than a line: %q", err)
		}
	})
}

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
		require.ErrorIs(t, err, errAway)
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
		_, err := dump.Load(ctx, m.closer, bytes.NewReader(m.dump), true)
		assert.NoError(m.t, err)
	}
	return m.closer.Txn(ctx, checks, writes)
}

// The records of a store in use are read without those of sessions, and another store can load them. A digest ignores
// the families that it is told to.
func TestReadOfStoreInUse(t *testing.T) {
	from, to := file(t), file(t)
	if _, err := dump.Read(t.Context(), from, "bolt"); dataset.KindOf(err) != dataset.ErrNotFound {
		t.Errorf("of an empty store: %v", err)
	}
	put(t, from, map[string]string{
		"cluster/id": `{"id":"0c0ddb53-0000-4000-8000-000000000001"}`, "names/db": `{"id":"x"}`, "rev/a/0": "\x00\xff",
	})
	session, err := from.Session(t.Context(), time.Minute)
	require.NoError(t, err)
	if _, err := from.Txn(t.Context(), nil, []store.Write{{Key: "live/house", Value: []byte("{}"), Session: session}}); err != nil {
		t.Fatal(err)
	}
	read := func() dump.Records {
		t.Helper()
		r, err := dump.Read(t.Context(), from, "bolt")
		require.NoError(t, err)
		return r
	}
	first := read()
	var out bytes.Buffer
	require.NoError(t, first.Write(&out))
	sum, err := dump.Load(t.Context(), to, bytes.NewReader(out.Bytes()), false)
	require.NoError(t, err)
	sum.Sum = ""
	if d := cmp.Diff(first.Summary(), sum); d != "" || sum.Entries != 3 || sum.Volumes != 1 {
		t.Errorf("-read +loaded:\n%s", d)
	}
	put(t, from, map[string]string{"rev/a/0": "2"})
	second := read()
	if first.Digest("rev/") != second.Digest("rev/") || first.Digest() == second.Digest() {
		t.Error("a change below rev/ counts, or does not count without the prefix")
	}
	put(t, from, map[string]string{"names/db": `{"id":"y"}`})
	if first.Digest("rev/") == read().Digest("rev/") {
		t.Error("a change of a name does not count")
	}
}
