package agent

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// upTo returns the time up to which the replica of a volume is.
func (f *flock) upTo(volume string) (taken, checked time.Time) {
	v := f.record(volume)
	if len(v.Kept) != 1 || v.Kept[0].Kind != dataset.CopyReplica || v.Kept[0].Snapshot == uuid.Nil {
		return taken, checked
	}
	return v.Kept[0].Taken, v.Kept[0].Checked
}

// A replica follows what is written, catches up after its node was away, costs its home no
// snapshot while nothing is written, and is what a volume goes on from without its home.
func TestReplica(t *testing.T) {
	f := newFlock(t, "loop", "loop")
	d := f.a.volume("db", map[string]string{"size": "320MiB", "profile": "safe"})
	f.a.writes("db", "token", "one")
	written := time.Now()
	await(t, func() bool { taken, _ := f.upTo("db"); return taken.After(written) })

	// Nothing changes: it is seen to have all, again and again, by the same snapshot.
	taken, checked := f.upTo("db")
	await(t, func() bool {
		now, then := f.upTo("db")
		if now.After(taken) { // the home had something to write out still
			taken, checked = now, then
		}
		return then.Sub(checked) > 2*time.Second
	})
	await(t, func() bool { // and keeps no more than what the next difference rests on
		e, err := f.a.thePool().Stat(t.Context(), d.ID)
		return err == nil && len(e.Snapshots) <= 3
	})

	if seen := f.b.SeenReplicas(); len(seen) != 1 || seen[0].Volume != "db" || seen[0].Age < 0 {
		t.Errorf("its figures are of %+v", seen)
	}
	f.b.down()
	f.a.writes("db", "token", "two")
	written = time.Now()
	f.b.up()
	await(t, func() bool { taken, _ := f.upTo("db"); return taken.After(written) })
	await(t, func() bool { // what its home keeps no longer goes with the next refresh
		e, err := f.b.thePool().Stat(t.Context(), d.ID)
		return err == nil && len(e.Snapshots) <= 3
	})

	f.a.down()
	out, err := f.svc.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", Node: "host-b", Force: true, Fenced: "host-a"})
	if err != nil {
		t.Fatal(err)
	}
	if op := f.ended(*out.Operation); op.State != dataset.OpDone || op.Loss.Taken.Before(written) {
		t.Fatalf("%s: %+v, %+v", op.State, op.Problem, op.Loss)
	}
	if got := f.b.reads("db", "token"); got != "two" {
		t.Errorf("it goes on with %q", got)
	}
	f.a.up()
	f.a.settled(d.ID)
}

// A volume moves to its replica and leaves one behind, which is kept fresh from there.
func TestReplicaOfWhatMoved(t *testing.T) {
	f := newFlock(t, "loop", "loop")
	f.a.volume("db", map[string]string{"size": "320MiB", "profile": "safe"})
	f.a.writes("db", "token", "one")
	written := time.Now()
	await(t, func() bool { taken, _ := f.upTo("db"); return taken.After(written) })
	f.moves("db", f.b)
	f.b.writes("db", "token", "two")
	written = time.Now()
	await(t, func() bool { taken, _ := f.upTo("db"); return taken.After(written) })
	f.moves("db", f.a)
	if got := f.a.reads("db", "token"); got != "two" {
		t.Errorf("back home it has %q", got)
	}
}
