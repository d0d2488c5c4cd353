package agent

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Wherever the home of a volume goes, to a node with a copy or without, once or again while
// a replica is away: the next refresh of each replica sends what changed, and not all.
func TestReplicaAfterMove(t *testing.T) {
	for name, move := range map[string]func(f *flock, b, c, d *host){
		"to a node without a copy": func(f *flock, _, _, d *host) { f.moves("db", d) },
		"to a replica":             func(f *flock, _, c, _ *host) { f.moves("db", c) },
		"twice, one is away": func(f *flock, b, c, d *host) {
			b.down()
			f.moves("db", d)
			f.moves("db", c)
			b.up()
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFlock(t, "loop", "loop")
			c := f.host("host-c", "loop")
			c.up()
			v := f.a.volume("db@safer", map[string]string{"size": "320MiB"})
			await(t, func() bool { return !f.upToOn(f.b, "db").IsZero() && !f.upToOn(c, "db").IsZero() })
			const whole = 24 << 20
			bulk := make([]byte, whole)
			_, _ = rand.Read(bulk)
			f.a.writes("db", "bulk", string(bulk))
			written := time.Now()
			await(t, func() bool { return f.upToOn(f.b, "db").After(written) && f.upToOn(c, "db").After(written) })
			d := f.host("host-d", "loop") // after the replicas were placed
			d.up()

			before := map[*host]int64{f.b: f.wires.broughtTo(f.b), c: f.wires.broughtTo(c)}
			if before[f.b] < whole {
				t.Fatalf("%d bytes came to a replica of %d", before[f.b], whole)
			}
			move(f, f.b, c, d)
			home := d
			if f.record("db").Home == c.Node() {
				home = c
			}
			await(t, func() bool { // each replica is seen to be one of this home's, before anything is written
				return !slices.ContainsFunc(f.record("db").Kept, func(k api.KeptCopy) bool {
					return k.Kind == dataset.CopyReplica && k.Epoch != f.record("db").Epoch
				})
			})
			home.writes("db", "token", "two")
			written = time.Now()
			for h, had := range before {
				if h == home {
					continue
				}
				await(t, func() bool { return f.upToOn(h, "db").After(written) })
				if came := f.wires.broughtTo(h) - had; came > whole/4 {
					t.Errorf("%s was sent %d bytes of %d after the move", h.NodeName, came, whole)
				}
				r, _ := h.replicaOf(v.ID)
				if got := h.holds(v, r.Snapshot, "token"); got != "two" {
					t.Errorf("%s has %q", h.NodeName, got)
				}
			}
			// Once all rest on what is newer, that is all the home keeps.
			await(t, func() bool {
				e, err := home.thePool().Stat(t.Context(), v.ID)
				return err == nil && len(e.Snapshots) <= givenKept*len(f.record("db").Copies)
			})
		})
	}
}

// A home keeps what a copy rests on that has a newer snapshot than any that came here with a
// move, and what a move under way brings to the next home: the copy keeps it as long.
func TestHomeKeepsWhatCopiesRestOn(t *testing.T) {
	f := newFlock(t, "loop", "loop")
	f.may = "wants replicas on more nodes" // once the replica is stopped
	c := f.host("host-c", "loop")
	d := f.a.volume("db@safe", map[string]string{"size": "320MiB"})
	c.up() // after the replica was placed
	await(t, func() bool { return !f.upToOn(f.b, "db").IsZero() })
	f.b.down()
	k := f.record("db").Kept[0].Copy
	asB, asC := context.WithValue(t.Context(), askerKey{}, f.b.Node()), context.WithValue(t.Context(), askerKey{}, c.Node())
	round := 0
	given := func() dataset.Snapshot { // to the replica, which has all until then
		t.Helper()
		round++
		f.a.writes("db", "token", fmt.Sprint(round))
		s, _, err := sending{f.a.Agent}.Freshen(asB, d.ID, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	has := func(s dataset.Snapshot) { // as control is told
		t.Helper()
		k.Snapshot, k.Taken, k.Order, k.Epoch = s.ID, s.Created, s.Order, s.Epoch
		if err := f.b.tellCopy(t.Context(), api.Copied{Copy: k}); err != nil {
			t.Fatal(err)
		}
	}
	keeps := func(id uuid.UUID) bool {
		t.Helper()
		e, err := f.a.thePool().Stat(t.Context(), d.ID)
		if err != nil {
			t.Fatal(err)
		}
		return indexOf(e, id) >= 0
	}
	first := given()
	has(dataset.Snapshot{ID: uuid.New(), Epoch: first.Epoch, Created: time.Now().UTC()}) // of an earlier home
	for range givenKept + 1 {
		given()
	}
	if !keeps(first.ID) {
		t.Error("what the replica rests on is gone")
	}
	has(given())
	given()
	if keeps(first.ID) {
		t.Error("what nobody rests on any more stays")
	}

	goOn := f.wires.stall()
	t.Cleanup(goOn)
	op := f.begins("db", c)
	await(t, func() bool { return f.wires.stuck() > 0 }) // the move is under way, and stays so
	resting := k.Snapshot
	if got := (sending{f.a.Agent}).Bases(asC, d.ID); !slices.Equal(got, []uuid.UUID{resting}) {
		t.Errorf("the move is to bring %v", got)
	}
	for range givenKept + 1 {
		has(given())
	}
	if !keeps(resting) {
		t.Error("what the move brings is gone, and the replica lets go of it too")
	}
	if _, err := f.svc.CancelOperation(t.Context(), op.ID.String()); err != nil {
		t.Fatal(err)
	}
	goOn()
	await(t, func() bool { given(); return !keeps(resting) }) // once nothing of it is being sent
}
