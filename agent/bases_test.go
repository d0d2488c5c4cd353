package agent

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/lineage"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/agent/replication"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Wherever the home of a volume goes, to a node with a copy or without, once or again while
// a replica is away: the next refresh of each replica sends what changed, and not all.
func TestReplicaAfterMove(t *testing.T) {
	t.Parallel()
	for name, move := range map[string]func(f *flock, b, c, d *flockHost){
		"to a node without a copy": func(f *flock, _, _, d *flockHost) { f.moves("db", d) },
		"to a replica":             func(f *flock, _, c, _ *flockHost) { f.moves("db", c) },
		"twice, one is away": func(f *flock, b, c, d *flockHost) {
			b.down()
			f.moves("db", d)
			f.moves("db", c)
			b.up()
		},
		"to a replica, its home is dead": func(f *flock, b, c, _ *flockHost) {
			f.may = "wants replicas on more nodes"
			v := f.record("db")
			begun, stop := time.Now(), f.a.keepsWriting("db")
			await(f.T, func() bool { return b.shares(c, v.ID, begun) })
			stop()
			f.a.down()
			for _, h := range []*flockHost{b, c} { // what had come of a refresh until then is taken in still
				h.refreshFails(v.ID)
			}
			var freshest, other dataset.Copy
			await(f.T, func() bool { // until control has heard how far each came
				freshest, _ = b.replicas.Copy(v.ID)
				other, _ = c.replicas.Copy(v.ID)
				return f.upToOn(b, "db").Equal(freshest.Taken) && f.upToOn(c, "db").Equal(other.Taken)
			})
			if other.At().Compare(freshest.At()) > 0 {
				freshest = other
			}
			f.submits(api.Request{Kind: dataset.OpMove, Volume: "db", Node: freshest.Node.String(), Force: true, Fenced: "host-a"})
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
			await(t, func() bool { return f.hasSince(f.b, "db", written) && f.hasSince(c, "db", written) })
			d := f.host("host-d", "loop") // after the replicas were placed
			d.up()

			before := map[*flockHost]int64{f.b: f.wires.broughtTo(f.b), c: f.wires.broughtTo(c)}
			if before[f.b] < whole {
				t.Fatalf("%d bytes came to a replica of %d", before[f.b], whole)
			}
			move(f, f.b, c, d)
			home := f.hosts[slices.IndexFunc(f.hosts, func(h *flockHost) bool { return h.Node() == f.record("db").Home })]
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
				await(t, func() bool { return f.hasSince(h, "db", written) })
				if came := f.wires.broughtTo(h) - had; came > whole/4 {
					t.Errorf("%s was sent %d bytes of %d after the move", h.NodeName, came, whole)
				}
				r, _ := h.replicas.Copy(v.ID)
				if got := h.holds(v, r.Snapshot, "token"); got != "two" {
					t.Errorf("%s has %q", h.NodeName, got)
				}
			}
			// Once all rest on what is newer, that is all the home keeps.
			await(t, func() bool {
				e, err := home.thePool().Stat(t.Context(), v.ID)
				return err == nil && len(e.Snapshots) <= replication.SentKept*(len(f.record("db").Copies)+1) // one more for all
			})
		})
	}
}

// keepsWriting writes a little to a volume again and again, until it is told to stop.
func (h *flockHost) keepsWriting(volume string) (stop func()) {
	h.f.Helper()
	path, end := h.mounts(volume, "little"), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-end:
				return
			case <-time.After(20 * time.Millisecond):
			}
			if err := os.WriteFile(filepath.Join(path, "little"), fmt.Append(nil, n), 0o600); err != nil {
				h.f.Error(err)
			}
		}
	})
	return func() { close(end); wg.Wait(); h.unmounts(volume, "little") }
}

// refreshFails waits until a refresh of a replica has failed, as each one after it does when
// its home is down.
func (h *flockHost) refreshFails(id uuid.UUID) {
	h.f.Helper()
	h.replicas.SetFailure(id, "")
	await(h.f.T, func() bool { return h.replicas.Failure(id) != "" })
}

// shares reports whether two hosts have a snapshot in common that is later than a time.
func (h *flockHost) shares(with *flockHost, id uuid.UUID, after time.Time) bool {
	mine, err := h.thePool().Stat(h.f.Context(), id)
	theirs, other := with.thePool().Stat(h.f.Context(), id)
	return err == nil && other == nil && slices.ContainsFunc(mine.Snapshots, func(s dataset.Snapshot) bool {
		return s.Created.After(after) && lineage.IndexOf(theirs, s.ID) >= 0
	})
}

// What all replicas have the home keeps until all have the next one.
func TestHomeKeepsWhatReplicasShare(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	f.may = "wants replicas on more nodes"
	c := f.host("host-c", "loop")
	c.up()
	d := f.a.volume("db@safer", map[string]string{"size": "320MiB"})
	await(t, func() bool { return !f.upToOn(f.b, "db").IsZero() && !f.upToOn(c, "db").IsZero() })
	f.b.down()
	c.down()
	h := shelf{f.a, d}
	first := h.took(uuid.Nil)
	h.has(f.b, h.took(f.b.Node()))
	h.has(c, h.took(c.Node()))
	second := h.took(uuid.Nil)
	h.has(c, second)
	if h.took(c.Node()); !h.keeps(first) || !h.keeps(second) {
		t.Error("one replica has the second, and the other only the first: it does not keep both")
	}
	h.has(f.b, h.took(f.b.Node()))
	if h.keeps(first) || !h.keeps(second) {
		t.Error("all have the second: it does not keep that alone")
	}
	if got := f.a.source.Shared(t.Context(), d.ID, first.ID); len(got) > 0 {
		t.Errorf("with what is gone comes %v", got)
	}
	want := h.took(c.Node())
	third := h.took(uuid.Nil)
	if h.took(f.b.Node()); !h.keeps(third) {
		t.Error("nobody has the third yet: it does not keep it")
	}
	if got := f.a.source.Shared(t.Context(), d.ID, want.ID); !slices.Equal(got, []uuid.UUID{second.ID}) {
		t.Errorf("with one of before the third comes %v", got)
	}
}

// What all replicas have is of no use any more when one is left alone: neither that nor the
// home keeps it.
func TestNothingIsSharedWithOne(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	f.may = "wants replicas on more nodes"
	c := f.host("host-c", "loop")
	c.up()
	d := f.a.volume("db@safer", map[string]string{"size": "320MiB"})
	began := time.Now()
	stop := f.a.keepsWriting("db")
	defer stop()
	await(t, func() bool { return f.b.shares(c, d.ID, began) })
	c.down()
	if _, err := f.svc.RemoveNode(t.Context(), "host-c", true); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*flockHost{f.a, f.b} {
		await(t, func() bool {
			e, err := h.thePool().Stat(t.Context(), d.ID)
			return err == nil && !slices.ContainsFunc(e.Snapshots, lineage.IsShared)
		})
	}
}

// shelf is what a home keeps of a volume for other nodes.
type shelf struct {
	*flockHost
	d dataset.Dataset
}

// took takes a snapshot for a node, which is given it, or for all.
func (h shelf) took(of uuid.UUID) dataset.Snapshot {
	h.f.Helper()
	e, err := h.thePool().Stat(h.f.Context(), h.d.ID)
	s := h.source.TransferSnapshot(h.d, uuid.New(), of).TakenAfter(e.Snapshots, time.Now())
	if err := errors.Join(err, h.thePool().Snapshot(h.f.Context(), s, nil)); err != nil {
		h.f.Fatal(err)
	}
	if of != uuid.Nil {
		h.retention.Sent.Note(h.f.record(h.d.Volume).Dataset, e, of, dataset.Snapshot{}, s, h.Clock.Steady())
	}
	return s
}

// has tells control that a copy has a snapshot.
func (h shelf) has(on *flockHost, s dataset.Snapshot) {
	h.f.Helper()
	for _, k := range h.f.record(h.d.Volume).Kept {
		if k.Node != on.Node() {
			continue
		}
		k.Snapshot, k.Taken, k.Order, k.Epoch = s.ID, s.Created, s.Order, s.Epoch
		if err := on.copies.Report(h.f.Context(), api.Copied{Copy: k.Copy}); err != nil {
			h.f.Fatal(err)
		}
	}
}

// gives gives a node what it asks for, which has some snapshots.
func (h shelf) gives(to *flockHost, have ...uuid.UUID) dataset.Snapshot {
	h.f.Helper()
	s, _, err := h.source.Freshen(move.WithAsker(h.f.Context(), to.Node()), h.d.ID, have)
	if err != nil {
		h.f.Fatal(err)
	}
	return s
}

// keeps reports whether a snapshot is there still, once what nobody needs is not.
func (h shelf) keeps(s dataset.Snapshot) bool {
	h.f.Helper()
	if err := h.retention.Prune(h.f.Context(), h.thePool(), h.d); err != nil {
		h.f.Fatal(err)
	}
	e, err := h.thePool().Stat(h.f.Context(), h.d.ID)
	if err != nil {
		h.f.Fatal(err)
	}
	return lineage.IndexOf(e, s.ID) >= 0
}

// A home keeps what a copy rests on that has a newer snapshot than any that came here with a
// move, and what a move under way brings to the next home: the copy keeps it as long.
func TestHomeKeepsWhatCopiesRestOn(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	f.may = "wants replicas on more nodes" // once the replica is stopped
	c := f.host("host-c", "loop")
	d := f.a.volume("db@safe", map[string]string{"size": "320MiB"})
	c.up() // after the replica was placed
	await(t, func() bool { return !f.upToOn(f.b, "db").IsZero() })
	f.b.down()
	k := f.record("db").Kept[0].Copy
	asB, asC := move.WithAsker(t.Context(), f.b.Node()), move.WithAsker(t.Context(), c.Node())
	round := 0
	given := func() dataset.Snapshot { // to the replica, which has all until then
		t.Helper()
		round++
		f.a.writes("db", "token", fmt.Sprint(round))
		s, _, err := f.a.source.Freshen(asB, d.ID, []uuid.UUID{k.Snapshot})
		err = errors.Join(err, f.a.retention.Prune(t.Context(), f.a.thePool(), f.record("db").Dataset)) // as it is soon
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	has := func(s dataset.Snapshot) { // as control is told
		t.Helper()
		k.Snapshot, k.Taken, k.Order, k.Epoch = s.ID, s.Created, s.Order, s.Epoch
		if err := f.b.copies.Report(t.Context(), api.Copied{Copy: k}); err != nil {
			t.Fatal(err)
		}
	}
	keeps := func(id uuid.UUID) bool {
		t.Helper()
		e, err := f.a.thePool().Stat(t.Context(), d.ID)
		if err != nil {
			t.Fatal(err)
		}
		return lineage.IndexOf(e, id) >= 0
	}
	first := given()
	has(dataset.Snapshot{ID: uuid.New(), Epoch: first.Epoch, Created: time.Now().UTC()}) // of an earlier home
	for range replication.SentKept + 1 {
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
	if got := f.a.source.Bases(asC, d.ID); !slices.Equal(got, []uuid.UUID{resting}) {
		t.Errorf("the move is to bring %v", got)
	}
	for range replication.SentKept + 1 {
		has(given())
	}
	if !keeps(resting) {
		t.Error("what the move brings is gone, and the replica lets go of it too")
	}
	if _, err := f.svc.CancelOperation(t.Context(), op.ID.String()); err != nil {
		t.Fatal(err)
	}
	goOn()
	await(t, func() bool { // once nothing of it is being sent, and the other keeps it no longer
		f.a.retention.Sent.Forget(d.ID)
		given()
		return !keeps(resting)
	})
}
