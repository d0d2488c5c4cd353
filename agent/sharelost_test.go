package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// untaken has a volume on host-b, of which that is the home, and which it has not taken from host-a
// yet; nor does it know any more that it was to.
func (f *flock) untaken() dataset.Dataset {
	f.Helper()
	d := f.a.volume("db", nil)
	f.a.writes("db", "token", "kept")
	f.moves("db", f.b)
	f.a.settled(d.ID)
	old := filepath.Join("datasets", d.ID.String())
	err := os.Rename(filepath.Join(f.shared, f.b.NodeName, old), filepath.Join(f.shared, f.a.NodeName, old))
	if err == nil {
		err = f.a.thePool().WriteRecord(f.Context(), d, true)
	}
	if err != nil {
		f.Fatal(err)
	}
	return d
}

// A home that was lost before it had taken a volume, or where that was lost on record, has not
// lost the volume: it goes on where it was, at a third node, and at that home itself.
func TestHomeThatNeverTookIt(t *testing.T) {
	for _, to := range []string{"host-a", "host-c", "host-b"} {
		t.Run(to, func(t *testing.T) { neverTook(t, to) })
	}
}

func neverTook(t *testing.T, to string) {
	f := newFlock(t, "nfs", "nfs")
	third := f.host("host-c", "nfs")
	third.up()
	d := f.untaken()
	next := map[string]*flockHost{"host-a": f.a, "host-b": f.b, "host-c": third}[to]
	if next == f.b {
		f.b.again()
	} else {
		f.b.down()
		out, err := f.svc.Submit(t.Context(), api.Request{Kind: dataset.OpMove, Volume: "db", Node: to, Force: true, Fenced: "host-b"})
		if err != nil {
			t.Fatal(err)
		}
		if op := f.ended(*out.Operation); op.State != dataset.OpDone {
			t.Fatalf("%s: %+v", to, op.Problem)
		}
		f.b.up()
	}
	if got := next.reads("db", "token"); got != "kept" {
		t.Errorf("%s has %q", to, got)
	}
	v := f.record("db")
	if e, err := next.thePool().Stat(t.Context(), d.ID); err != nil || e.Record.Epoch != v.Epoch || v.Taken == nil || v.Taken.From != f.a.thePool().ID() {
		t.Errorf("%s: %+v, %+v, %v", to, v.Taken, e, err)
	}
}

// What a move file by file left in a pool that was cut short is not in the way of what is taken
// there, nor kept for what went on elsewhere.
func TestHalfOfAMoveOnAShare(t *testing.T) {
	f := newFlock(t, "nfs", "nfs")
	d := f.a.volume("db", nil)
	f.a.writes("db", "token", "kept")
	for _, restart := range []bool{false, true} {
		half := filepath.Join(f.shared, f.b.NodeName, "incoming", d.ID.String())
		if err := os.MkdirAll(filepath.Join(half, "head"), 0o700); err != nil {
			t.Fatal(err)
		}
		if restart {
			f.b.again()
			if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("it is kept: %v", err)
			}
			continue
		}
		f.moves("db", f.b)
		if got := f.b.reads("db", "token"); got != "kept" {
			t.Errorf("it holds %q", got)
		}
		f.moves("db", f.a)
		f.b.settled(d.ID)
	}
}
