package replication_test

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

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// Wherever the home of a volume moves, to a node with a copy or without, once or twice while a replica is
// unreachable: the next refresh of each replica sends only what changed.
func TestReplicaRefreshAfterMoveIsIncremental(t *testing.T) {
	t.Parallel()
	for name, bring := range map[string]func(f *agenttest.Cluster, b, c, d *agenttest.Host){
		"to a node without a copy": func(f *agenttest.Cluster, _, _, d *agenttest.Host) { f.Move("db", d) },
		"to a replica":             func(f *agenttest.Cluster, _, c, _ *agenttest.Host) { f.Move("db", c) },
		"twice, one is away": func(f *agenttest.Cluster, b, c, d *agenttest.Host) {
			b.Stop()
			f.Move("db", d)
			f.Move("db", c)
			b.Start()
		},
		"to a replica, its home is dead": func(f *agenttest.Cluster, b, c, _ *agenttest.Host) {
			f.MayFailWith = "requires replicas on more nodes"
			v := f.Recorded("db")
			begun, stop := time.Now(), keepsWriting(f.A, "db")
			agenttest.Await(f.T, func() bool { return shares(b, c, v.ID, begun) })
			stop()
			f.A.Stop()
			for _, h := range []*agenttest.Host{b, c} { // data of earlier refreshes is still applied
				refreshFails(h, v.ID)
			}
			var freshest, other dataset.Copy
			agenttest.Await(f.T, func() bool { // until control knows how far each replica is
				freshest, _ = b.Replicas.Copy(v.ID)
				other, _ = c.Replicas.Copy(v.ID)
				return f.ReplicaTimeOn(b, "db").Equal(freshest.Taken) && f.ReplicaTimeOn(c, "db").Equal(other.Taken)
			})
			if other.At().Compare(freshest.At()) > 0 {
				freshest = other
			}
			submits(f, api.Request{Kind: dataset.OpMove, Volume: "db", Node: freshest.Node.String(), Force: true, Fenced: "host-a"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := agenttest.NewCluster(t, "loop", "loop")
			c := f.AddHost("host-c", "loop")
			c.Start()
			v := f.A.NewVolume("db@safer", map[string]string{"size": "320MiB"})
			agenttest.Await(t, func() bool { return !f.ReplicaTimeOn(f.B, "db").IsZero() && !f.ReplicaTimeOn(c, "db").IsZero() })
			const whole = 24 << 20
			bulk := make([]byte, whole)
			_, _ = rand.Read(bulk)
			f.A.WriteFile("db", "bulk", string(bulk))
			written := time.Now()
			agenttest.Await(t, func() bool { return f.ReplicaHasSince(f.B, "db", written) && f.ReplicaHasSince(c, "db", written) })
			d := f.AddHost("host-d", "loop") // after the replicas were placed
			d.Start()

			before := map[*agenttest.Host]int64{f.B: f.Network.BytesTo(f.B), c: f.Network.BytesTo(c)}
			if before[f.B] < whole {
				t.Fatalf("%d bytes came to a replica of %d", before[f.B], whole)
			}
			bring(f, f.B, c, d)
			home := f.Hosts[slices.IndexFunc(f.Hosts, func(h *agenttest.Host) bool { return h.Node() == f.Recorded("db").Home })]
			// Each replica is known to belong to this home, before anything is written.
			agenttest.Await(t, func() bool {
				return !slices.ContainsFunc(f.Recorded("db").CopyDetails, func(k api.CopyDetail) bool {
					return k.Kind == dataset.CopyReplica && k.Epoch != f.Recorded("db").Epoch
				})
			})
			home.WriteFile("db", "token", "two")
			written = time.Now()
			for h, had := range before {
				if h == home {
					continue
				}
				agenttest.Await(t, func() bool { return f.ReplicaHasSince(h, "db", written) })
				if came := f.Network.BytesTo(h) - had; came > whole/4 {
					t.Errorf("%s was sent %d bytes of %d after the move", h.NodeName, came, whole)
				}
				r, _ := h.Replicas.Copy(v.ID)
				if got := h.ReadSnapshot(v, r.Snapshot, "token"); got != "two" {
					t.Errorf("%s has %q", h.NodeName, got)
				}
			}
			// Once all replicas are based on a newer snapshot, the home keeps only that.
			agenttest.Await(t, func() bool {
				e, err := home.Pool().Stat(t.Context(), v.ID)
				// One more for all.
				return err == nil && len(e.Snapshots) <= move.SentKept*(len(f.Recorded("db").Copies)+1)
			})
		})
	}
}

// keepsWriting writes a little to a volume again and again, until stop is called.
func keepsWriting(h *agenttest.Host, volume string) (stop func()) {
	h.Cluster.Helper()
	path, end := h.MustMount(volume, "little"), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-end:
				return
			case <-time.After(20 * time.Millisecond):
			}
			assert.NoError(h.Cluster, os.WriteFile(filepath.Join(path, "little"), fmt.Append(nil, n), 0o600))
		}
	})
	return func() { close(end); wg.Wait(); h.MustUnmount(volume, "little") }
}

// refreshFails waits until a refresh of a replica has failed, as each later one does while its home is down.
func refreshFails(h *agenttest.Host, id uuid.UUID) {
	h.Cluster.Helper()
	h.Replicas.SetFailure(id, "")
	agenttest.Await(h.Cluster.T, func() bool { return h.Replicas.Failure(id) != "" })
}

// shares reports whether two hosts have a common snapshot that is later than a time.
func shares(h *agenttest.Host, with *agenttest.Host, id uuid.UUID, after time.Time) bool {
	mine, err := h.Pool().Stat(h.Cluster.Context(), id)
	theirs, other := with.Pool().Stat(h.Cluster.Context(), id)
	return err == nil && other == nil && slices.ContainsFunc(mine.Snapshots, func(s dataset.Snapshot) bool {
		return s.Created.After(after) && host.IndexOf(theirs, s.ID) >= 0
	})
}

// The home keeps a snapshot that all replicas have until all of them have the next one.
func TestHomeKeepsCommonBaseOfReplicas(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	f.MayFailWith = "requires replicas on more nodes"
	c := f.AddHost("host-c", "loop")
	c.Start()
	d := f.A.NewVolume("db@safer", map[string]string{"size": "320MiB"})
	agenttest.Await(t, func() bool { return !f.ReplicaTimeOn(f.B, "db").IsZero() && !f.ReplicaTimeOn(c, "db").IsZero() })
	f.B.Stop()
	c.Stop()
	h := shelf{f.A, d}
	first := h.took(uuid.Nil)
	h.has(f.B, h.took(f.B.Node()))
	h.has(c, h.took(c.Node()))
	second := h.took(uuid.Nil)
	h.has(c, second)
	if h.took(c.Node()); !h.keeps(first) || !h.keeps(second) {
		t.Error("one replica has the second, and the other only the first: it does not keep both")
	}
	h.has(f.B, h.took(f.B.Node()))
	if h.keeps(first) || !h.keeps(second) {
		t.Error("all have the second: it does not keep that alone")
	}
	if got := f.A.TransferSource.SharedSnapshots(t.Context(), d.ID, first.ID); len(got) > 0 {
		t.Errorf("with what is gone comes %v", got)
	}
	want := h.took(c.Node())
	third := h.took(uuid.Nil)
	if h.took(f.B.Node()); !h.keeps(third) {
		t.Error("nobody has the third yet: it does not keep it")
	}
	if got := f.A.TransferSource.SharedSnapshots(t.Context(), d.ID, want.ID); !slices.Equal(got, []uuid.UUID{second.ID}) {
		t.Errorf("with one of before the third comes %v", got)
	}
}

// A snapshot that all replicas have is useless when only one replica is left: neither that replica nor the home keeps
// it.
func TestNoCommonBaseForSingleReplica(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	f.MayFailWith = "requires replicas on more nodes"
	c := f.AddHost("host-c", "loop")
	c.Start()
	d := f.A.NewVolume("db@safer", map[string]string{"size": "320MiB"})
	began := time.Now()
	stop := keepsWriting(f.A, "db")
	defer stop()
	agenttest.Await(t, func() bool { return shares(f.B, c, d.ID, began) })
	c.Stop()
	if _, err := f.Service.RemoveNode(t.Context(), "host-c", api.NodeRemoval{Force: true}); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*agenttest.Host{f.A, f.B} {
		agenttest.Await(t, func() bool {
			e, err := h.Pool().Stat(t.Context(), d.ID)
			return err == nil && !slices.ContainsFunc(e.Snapshots, host.IsShared)
		})
	}
}

// shelf is the set of snapshots that a home keeps of a volume for other nodes.
type shelf struct {
	*agenttest.Host
	d dataset.Dataset
}

// took takes a snapshot for a node, which gets it, or for all nodes.
func (h shelf) took(of uuid.UUID) dataset.Snapshot {
	h.Cluster.Helper()
	e, err := h.Pool().Stat(h.Cluster.Context(), h.d.ID)
	s := h.TransferSource.TransferSnapshot(h.d, uuid.New(), of).TakenAfter(e.Snapshots, time.Now())
	require.NoError(h.Cluster, errors.Join(err, h.Pool().Snapshot(h.Cluster.Context(), s, nil)))
	if of != uuid.Nil {
		h.Retention.Sent.Record(h.Cluster.Recorded(h.d.Volume).Dataset, e, of, dataset.Snapshot{}, s, h.Clock.Steady())
	}
	return s
}

// has reports to control that a copy has a snapshot.
func (h shelf) has(on *agenttest.Host, s dataset.Snapshot) {
	h.Cluster.Helper()
	for _, k := range h.Cluster.Recorded(h.d.Volume).CopyDetails {
		if k.Node != on.Node() {
			continue
		}
		k.Snapshot, k.Taken, k.OrderTime, k.Epoch = s.ID, s.Created, s.OrderTime, s.Epoch
		require.NoError(h.Cluster, on.Copies.Report(h.Cluster.Context(), api.CopyReport{Copy: k.Copy}))
	}
}

// gives gives a node that has some snapshots the snapshot that it asks for.
func (h shelf) gives(to *agenttest.Host, have ...uuid.UUID) dataset.Snapshot {
	h.Cluster.Helper()
	s, _, err := h.TransferSource.TakeSnapshot(move.WithRequester(h.Cluster.Context(), to.Node()), h.d.ID, have)
	require.NoError(h.Cluster, err)
	return s
}

// keeps reports whether a snapshot still exists after unneeded snapshots were removed.
func (h shelf) keeps(s dataset.Snapshot) bool {
	h.Cluster.Helper()
	require.NoError(h.Cluster, h.Retention.Prune(h.Cluster.Context(), h.Pool(), h.d))
	e, err := h.Pool().Stat(h.Cluster.Context(), h.d.ID)
	require.NoError(h.Cluster, err)
	return host.IndexOf(e, s.ID) >= 0
}

// A home keeps the base of a copy that has a newer snapshot than any that arrived here with a move, and the snapshots
// that a move in progress transfers to the next home: the copy keeps its base as long.
func TestHomeKeepsBasesOfCopiesAndMoves(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	f.MayFailWith = "requires replicas on more nodes" // once the replica is stopped
	c := f.AddHost("host-c", "loop")
	d := f.A.NewVolume("db@safe", map[string]string{"size": "320MiB"})
	c.Start() // after the replica was placed
	agenttest.Await(t, func() bool { return !f.ReplicaTimeOn(f.B, "db").IsZero() })
	f.B.Stop()
	k := f.Recorded("db").CopyDetails[0].Copy
	asB, asC := move.WithRequester(t.Context(), f.B.Node()), move.WithRequester(t.Context(), c.Node())
	round := 0
	given := func() dataset.Snapshot { // to the replica, which has everything before that
		t.Helper()
		round++
		f.A.WriteFile("db", "token", fmt.Sprint(round))
		s, _, err := f.A.TransferSource.TakeSnapshot(asB, d.ID, []uuid.UUID{k.Snapshot})
		// As happens soon.
		err = errors.Join(err, f.A.Retention.Prune(t.Context(), f.A.Pool(), f.Recorded("db").Dataset))
		require.NoError(t, err)
		return s
	}
	has := func(s dataset.Snapshot) { // as if it was reported to control
		t.Helper()
		k.Snapshot, k.Taken, k.OrderTime, k.Epoch = s.ID, s.Created, s.OrderTime, s.Epoch
		require.NoError(t, f.B.Copies.Report(t.Context(), api.CopyReport{Copy: k}))
	}
	keeps := func(id uuid.UUID) bool {
		t.Helper()
		e, err := f.A.Pool().Stat(t.Context(), d.ID)
		require.NoError(t, err)
		return host.IndexOf(e, id) >= 0
	}
	first := given()
	has(dataset.Snapshot{ID: uuid.New(), Epoch: first.Epoch, Created: time.Now().UTC()}) // of an earlier home
	for range move.SentKept + 1 {
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

	goOn := f.Network.StallStreams()
	t.Cleanup(goOn)
	op := f.BeginMove("db", c)
	agenttest.Await(t, func() bool { return f.Network.StalledStreams() > 0 }) // the move is in progress, and stays so
	resting := k.Snapshot
	if got := f.A.TransferSource.CopyBases(asC, d.ID); !slices.Equal(got, []uuid.UUID{resting}) {
		t.Errorf("the move is to bring %v", got)
	}
	for range move.SentKept + 1 {
		has(given())
	}
	if !keeps(resting) {
		t.Error("what the move brings is gone, and the replica lets go of it too")
	}
	_, err := f.Service.CancelOperation(t.Context(), op.ID.String())
	require.NoError(t, err)
	goOn()
	agenttest.Await(t, func() bool { // once nothing of it is being sent, and the other node does not keep it any more
		f.A.Retention.Sent.Forget(d.ID)
		given()
		return !keeps(resting)
	})
}
