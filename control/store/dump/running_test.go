package dump_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/dump"
	"github.com/droverhq/drover/dataset"
)

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
	if err != nil {
		t.Fatal(err)
	}
	if _, err := from.Txn(t.Context(), nil, []store.Write{{Key: "live/house", Value: []byte("{}"), Session: session}}); err != nil {
		t.Fatal(err)
	}
	read := func() dump.Records {
		t.Helper()
		r, err := dump.Read(t.Context(), from, "bolt")
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := read()
	var out bytes.Buffer
	if err := first.Write(&out); err != nil {
		t.Fatal(err)
	}
	sum, err := dump.Load(t.Context(), to, bytes.NewReader(out.Bytes()), false)
	if err != nil {
		t.Fatal(err)
	}
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
