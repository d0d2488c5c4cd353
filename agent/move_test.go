package agent

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A volume that nobody uses moves, and back: with what was written, with its snapshots,
// at a new epoch each time, and what the home that it left keeps is no head.
func TestMoveIdle(t *testing.T) {
	f := newFlock(t, "loop", "loop")
	d := f.a.volume("db", map[string]string{"size": "320MiB"})
	f.a.writes("db", "token", "first")
	if err := f.a.perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "mine"}); err != nil {
		t.Fatal(err)
	}
	f.a.writes("db", "token", "second")
	for i, to := range []*host{f.b, f.a, f.b} {
		from := f.other(to)
		f.moves("db", to)
		v := f.record("db")
		if v.Home != to.Node() || v.Epoch != uint64(2+i) || v.Move != uuid.Nil || len(v.Copies) != 1 || v.Copies[0] != from.Node() {
			t.Errorf("on record: %+v", v)
		}
		from.settled(d.ID)
		if got := to.reads("db", "token"); got != "second" {
			t.Errorf("it holds %q", got)
		}
		e, err := to.thePool().Stat(t.Context(), d.ID)
		if err != nil || e.State != backends.EntryReady || e.Problem != "" {
			t.Errorf("%+v, %v", e, err)
		}
		if e.Record == nil || e.Record.Epoch != v.Epoch || e.Record.Home != to.Node() {
			t.Errorf("beside the data: %+v", e.Record)
		}
	}
	if err := f.b.perform(t.Context(), api.Request{Kind: dataset.OpRestore, Volume: "db", Snapshot: "mine"}); err != nil {
		t.Fatal(err)
	}
	if got := f.b.reads("db", "token"); got != "first" {
		t.Errorf("the snapshot that travelled holds %q", got)
	}
	if list, err := f.a.Doctor(t.Context()); err != nil {
		t.Error(err)
	} else {
		for _, l := range list {
			if l.Level == levelWarning || l.Level == levelError {
				t.Errorf("doctor: %+v", l)
			}
		}
	}
}
