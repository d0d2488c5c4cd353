package dump_test

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

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
	consultest "github.com/droverhq/drover/test/consul"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type closer interface {
	store.Store
	store.Raiser
}

func file(tb testing.TB) closer {
	tb.Helper()
	s, err := bolt.Open(tb.Context(), filepath.Join(tb.TempDir(), "store.db"), bolt.Options{Clock: clock.System{}})
	if err != nil {
		tb.Fatal(err)
	}
	return closing(tb, s)
}

func closing(tb testing.TB, s closer) closer {
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
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
		if _, err := s.Txn(tb.Context(), nil, some); err != nil {
			tb.Fatal(err)
		}
	}
}

// held is the contents of a store; newest is the largest index.
func held(tb testing.TB, s store.Store) (values map[string]string, newest uint64) {
	tb.Helper()
	list, err := s.List(tb.Context(), "", "", 0)
	if err != nil {
		tb.Fatal(err)
	}
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
	if err != nil {
		tb.Fatal(err)
	}
	checked, err := dump.Check(bytes.NewReader(b.Bytes()))
	if diff := cmp.Diff(sum, checked); diff != "" || err != nil {
		tb.Fatalf("what was written is not what is read: %v %s", err, diff)
	}
	return b.Bytes()
}

// copied loads a dump and checks that the store has its contents, at indexes above the old ones.
func copied(tb testing.TB, b []byte, from, to store.Store, replace bool) {
	tb.Helper()
	if _, err := dump.Load(tb.Context(), to, bytes.NewReader(b), replace); err != nil {
		tb.Fatal(err)
	}
	old, last := held(tb, from)
	now, _ := held(tb, to)
	if diff := cmp.Diff(old, now); diff != "" {
		tb.Fatal(diff)
	}
	list, err := to.List(tb.Context(), "", "", 0)
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range list {
		if e.Index <= last {
			tb.Fatalf("%s has index %d, and the old store was at %d", e.Key, e.Index, last)
		}
	}
	if err := dump.CheckComplete(tb.Context(), to); err != nil {
		tb.Fatal(err)
	}
}

// The records of every kind of store are restored from a dump, byte for byte.
func TestRoundTrip(t *testing.T) {
	from, to := file(t), file(t)
	word := rapid.StringMatching(`[a-z!"<&>~-]{1,8}`)
	rapid.Check(t, func(r *rapid.T) {
		old, _ := held(t, from)
		for k := range old {
			if _, err := from.Txn(t.Context(), nil, []store.Write{{Key: k, Delete: true}}); err != nil {
				r.Fatal(err)
			}
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
	if err != nil {
		t.Fatal(err)
	}
	one, shared, other := file(t), closing(t, opened), file(t)
	put(t, one, some())
	for n := range 5 {
		var writes []store.Write
		for i := range 100 {
			writes = append(writes, store.Write{Key: fmt.Sprintf("datasets/%d%02d", n, i), Value: bytes.Repeat([]byte("x"), 30*i)})
		}
		put(t, one, map[string]string{fmt.Sprintf("large/%d", n): string(make([]byte, store.MaxValue))})
		if _, err := one.Txn(t.Context(), nil, writes); err != nil {
			t.Fatal(err)
		}
	}
	if err := one.Raise(t.Context(), 1_000_000); err != nil {
		t.Fatal(err)
	}
	b := save(t, one)
	copied(t, b, one, shared, false)
	// Another process sees the same indexes.
	again, err := consul.Open(o)
	if err != nil {
		t.Fatal(err)
	}
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
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shared.Txn(t.Context(), nil, []store.Write{{Key: "live/nodes/x", Session: id}}); err != nil {
		t.Fatal(err)
	}
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
