package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/lineage"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/agent/replication"
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

// upToOn does so of the replica on one of several hosts.
func (f *flock) upToOn(h *flockHost, volume string) (taken time.Time) {
	for _, k := range f.record(volume).Kept {
		if k.Node == h.Node() && k.Kind == dataset.CopyReplica {
			taken = k.Taken
		}
	}
	return taken
}

// hasSince reports whether the replica of a volume on a host has all that was written until a
// time. Its snapshot may be older: one that is taken between the last write and that time has
// it all, and while nothing is written there is no other one.
func (f *flock) hasSince(h *flockHost, volume string, written time.Time) bool {
	return slices.ContainsFunc(f.record(volume).Kept, func(k api.KeptCopy) bool {
		return k.Node == h.Node() && k.Kind == dataset.CopyReplica && k.Snapshot != uuid.Nil && k.Current.After(written)
	})
}

// A replica follows what is written, catches up after its node was away, costs its home no
// snapshot while nothing is written, and is what a volume goes on from without its home.
func TestReplica(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	f.may = "wants replicas on more nodes" // once its home was overtaken
	d := f.a.volume("db", map[string]string{"size": "320MiB", "profile": "safe"})
	f.a.writes("db", "token", "one")
	written := time.Now()
	await(t, func() bool { return f.hasSince(f.b, "db", written) })

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
		return err == nil && len(e.Snapshots) <= replication.SentKept
	})

	// Each round its home removes what nobody rests on any more, and so does the replica.
	for i := range 4 {
		f.a.writes("db", "token", fmt.Sprint("round ", i))
		written = time.Now()
		await(t, func() bool { return f.hasSince(f.b, "db", written) })
	}
	for _, h := range []*flockHost{f.a, f.b} {
		await(t, func() bool {
			e, err := h.thePool().Stat(t.Context(), d.ID)
			return err == nil && len(e.Snapshots) <= replication.SentKept
		})
	}

	if seen := f.b.SeenReplicas(); len(seen) != 1 || seen[0].Volume != "db" || seen[0].Age < 0 {
		t.Errorf("its figures are of %+v", seen)
	}
	f.b.down()
	f.a.writes("db", "token", "two")
	written = time.Now()
	f.b.up()
	await(t, func() bool { return f.hasSince(f.b, "db", written) })
	await(t, func() bool { // what its home keeps no longer goes with the next refresh
		e, err := f.b.thePool().Stat(t.Context(), d.ID)
		return err == nil && len(e.Snapshots) <= replication.SentKept
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
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	f.a.volume("db", map[string]string{"size": "320MiB", "profile": "safe"})
	f.a.writes("db", "token", "one")
	written := time.Now()
	await(t, func() bool { return f.hasSince(f.b, "db", written) })
	f.moves("db", f.b)
	f.b.writes("db", "token", "two")
	written = time.Now()
	await(t, func() bool { return f.hasSince(f.a, "db", written) })
	f.moves("db", f.a)
	if got := f.a.reads("db", "token"); got != "two" {
		t.Errorf("back home it has %q", got)
	}
}

// A home keeps what the next difference to a node rests on, for as long as that node says
// so, whatever control has heard of it: a node whose pulls fail does not begin anew.
func TestHomeKeepsWhatThePeerHas(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	d := f.a.volume("db", map[string]string{"size": "320MiB"})
	ctx := move.WithAsker(t.Context(), f.b.Node())
	var given []uuid.UUID
	for i := range 5 {
		f.a.writes("db", "token", fmt.Sprint(i))
		var have []uuid.UUID
		if i > 0 {
			have = given[:1] // and no later one has come
		}
		if i == 4 {
			have = given[3:4]
		}
		s, _, err := f.a.source.Freshen(ctx, d.ID, have)
		err = errors.Join(err, f.a.retention.Prune(ctx, f.a.thePool(), f.record("db").Dataset)) // as it is soon
		if err != nil {
			t.Fatal(err)
		}
		given = append(given, s.ID)
		e, err := f.a.thePool().Stat(ctx, d.ID)
		if err != nil {
			t.Fatal(err)
		}
		first := lineage.IndexOf(e, given[0]) >= 0
		if first != (i < 4) || i == 3 && len(e.Snapshots) != 3 || lineage.IndexOf(e, s.ID) < 0 {
			t.Errorf("round %d: the first is there: %t, of %d", i, first, len(e.Snapshots))
		}
	}
}

// A replica that has what the volume went on without keeps that, as what was overtaken:
// neither a refresh nor a move nor control drops it before a person does (I3).
func TestI3ReplicaAhead(t *testing.T) {
	t.Parallel()
	for _, condemned := range []bool{false, true} {
		t.Run(fmt.Sprint("condemned ", condemned), func(t *testing.T) { replicaAhead(t, condemned) })
	}
}

func replicaAhead(t *testing.T, condemned bool) {
	f := newFlock(t, "loop", "loop")
	f.may = "wants replicas on more nodes" // once two are not to be refreshed
	c := f.host("host-c", "loop")
	c.up()
	d := f.a.volume("db@safer", map[string]string{"size": "320MiB"})
	upTo := func(h *flockHost) time.Time { return f.upToOn(h, "db") }
	write := func(text string, to ...*flockHost) {
		t.Helper()
		f.a.writes("db", "token", text)
		written := time.Now()
		for _, h := range to {
			await(t, func() bool { return f.hasSince(h, "db", written) })
		}
	}
	write("one", f.b, c)
	f.b.down()
	write("two", c)
	c.down()
	f.a.down()
	f.serveAgain() // what it heard of c it has forgotten
	f.b.up()
	await(t, func() bool { return upTo(f.b).After(upTo(c)) })
	out, err := f.svc.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", Node: "host-b", Force: true, Fenced: "host-a"})
	if err != nil {
		t.Fatal(err)
	}
	if op := f.ended(*out.Operation); op.State != dataset.OpDone {
		t.Fatalf("%+v", op.Problem)
	}
	f.b.writes("db", "token", "three")
	if condemned { // as nobody knows what it has
		if _, err := f.svc.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "db", Profile: "plain"}); err != nil {
			t.Fatal(err)
		}
		await(t, func() bool {
			return slices.ContainsFunc(f.record("db").Kept, func(k api.KeptCopy) bool { return k.Kind == dataset.CopyGoing })
		})
	}
	c.up()
	await(t, func() bool {
		k, kept := c.Cache.Copy(d.ID)
		return kept && k.Kind == dataset.CopySuperseded
	})
	f.b.writes("db", "token", "four")
	op := f.ended(f.begins("db", c))
	if op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, "discard it first") {
		t.Errorf("%s: %+v", op.State, op.Problem)
	}
	k, _ := c.Cache.Copy(d.ID)
	if got := c.holds(d, k.Snapshot, "token"); got != "two" {
		t.Errorf("what it has and the volume has not holds %q", got)
	}
	if _, err := f.svc.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpDiscard, Volume: "db", Node: "host-c"}); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		_, err := c.thePool().Stat(t.Context(), d.ID)
		return errors.Is(err, dataset.ErrNotFound)
	})
}

// holds returns what a file holds in a snapshot of a host's.
func (h *flockHost) holds(d dataset.Dataset, snapshot uuid.UUID, file string) string {
	h.f.Helper()
	root, release, err := h.source.OpenSnapshot(h.f.Context(), h.thePool(), d, snapshot)
	if err != nil {
		h.f.Fatal(err)
	}
	text := make([]byte, 64)
	fd, err := unix.Openat(int(root.Fd()), file, unix.O_RDONLY, 0)
	n := 0
	if err == nil {
		n, err = unix.Read(fd, text)
		unix.Close(fd)
	}
	if err := errors.Join(err, root.Close(), release()); err != nil {
		h.f.Error(err)
	}
	return string(text[:max(n, 0)])
}

// A volume that goes on from a replica does not wait for a refresh of it, whose home may
// have stopped in the middle.
func TestPromotionEndsARefresh(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	f.may = "wants replicas on more nodes"
	f.a.volume("db@safe", map[string]string{"size": "320MiB"})
	f.a.writes("db", "token", "one")
	written := time.Now()
	await(t, func() bool { return f.hasSince(f.b, "db", written) })
	goOn := f.wires.stall()
	t.Cleanup(goOn)
	f.a.writes("db", "token", "two")
	await(t, func() bool { return f.wires.stuck() > 0 })
	f.a.down()
	out, err := f.svc.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", Node: "host-b", Force: true, Fenced: "host-a"})
	if err != nil {
		t.Fatal(err)
	}
	if op := f.ended(*out.Operation); op.State != dataset.OpDone {
		t.Errorf("%s: %+v", op.State, op.Problem)
	}
	if got := f.b.reads("db", "token"); got != "one" {
		t.Errorf("it goes on with %q", got)
	}
}

// undecided is a control that does not say what became of an operation: what is brought
// here stays.
type undecided struct{ api.Service }

func (undecided) Operation(context.Context, string, time.Duration) (op dataset.Operation, err error) {
	return op, dataset.Errorf(dataset.ErrUnavailable, "not now")
}

// lenient is a control that lets a copy go.
type lenient struct{ api.Service }

func (l lenient) Copied(ctx context.Context, node uuid.UUID, c api.Copied) error {
	if c.Asks {
		return nil
	}
	return l.Service.Copied(ctx, node, c)
}

// A copy that is to go is not destroyed under a move that goes on from it.
func TestCopyStaysUnderAMove(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	d := f.a.volume("db", map[string]string{"size": "320MiB"})
	f.moves("db", f.b)
	f.a.settled(d.ID)
	f.a.cfg.Limits.Heartbeat = time.Hour // nothing but what is asked for here
	f.a.cfg.Control = lenient{undecided{f.a.cfg.Control}}
	f.a.again()
	f.a.settled(d.ID)
	left, _ := f.a.Cache.Copy(d.ID)
	k := left
	k.Kind, k.Was = dataset.CopyGoing, dataset.CopySuperseded
	for _, under := range []func() (end func()){
		func() func() { return f.a.moveTable.Begin(d.ID) },
		func() func() { // as after a crash
			if err := f.a.moveTable.Set(t.Context(), d.ID, replication.MoveRecord{Pool: k.Pool}); err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := f.a.moveTable.Drop(t.Context(), d.ID); err != nil {
					t.Error(err)
				}
			}
		},
	} {
		end := under()
		f.a.Cache.SetCopy(d.ID, &k)
		if err := f.a.copies.Settle(t.Context(), d.ID); err != nil {
			t.Error(err)
		}
		if _, err := f.a.thePool().Stat(t.Context(), d.ID); err != nil {
			t.Fatalf("destroyed under a move: %v", err)
		}
		f.a.Cache.SetCopy(d.ID, &left)
		end()
	}
	f.a.Cache.SetCopy(d.ID, &k)
	if err := f.a.copies.Settle(t.Context(), d.ID); err != nil {
		t.Error(err)
	}
	if _, err := f.a.thePool().Stat(t.Context(), d.ID); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("not destroyed after it: %v", err)
	}
}
