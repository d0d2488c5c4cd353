package move

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// history makes snapshots that are a minute apart. A parent of -1 is the previous snapshot.
func history(n int) []dataset.Snapshot {
	all := make([]dataset.Snapshot, n)
	for i := range all {
		all[i] = dataset.Snapshot{ID: uuid.New(), Kind: dataset.SnapshotScheduled, Epoch: 1, Created: taken.Add(time.Duration(i) * time.Minute)}
		if i > 0 {
			all[i].Parent = all[i-1].ID
		}
	}
	return all
}

// distance returns a cost function: how far apart two snapshots are in a list. A snapshot without a base costs at
// least 100.
func distance(all []dataset.Snapshot) func(base, s uuid.UUID) (int64, error) {
	at := func(id uuid.UUID) int {
		return slices.IndexFunc(all, func(s dataset.Snapshot) bool { return s.ID == id })
	}
	return func(base, s uuid.UUID) (int64, error) {
		if base == uuid.Nil {
			return int64(100 + at(s)), nil
		}
		return int64(max(at(base)-at(s), at(s)-at(base))), nil
	}
}

// A storage that can send differences only to an ancestor of a snapshot: between two branches, as after a restore, it
// sends none. A snapshot without a base is sent completely.
func TestPlansOfWhatCameOfAnother(t *testing.T) {
	all := history(6) // 0 1 2 3 in a line, and 4 5 that follow 1
	all[4].Parent = all[1].ID
	of := map[int][]int{1: {0}, 2: {0, 1}, 3: {0, 1, 2}, 4: {0, 1}, 5: {0, 1, 4}}
	at := func(id uuid.UUID) int {
		return slices.IndexFunc(all, func(s dataset.Snapshot) bool { return s.ID == id })
	}
	cost := func(base, s uuid.UUID) (int64, error) {
		if base != uuid.Nil && !slices.Contains(of[at(s)], at(base)) {
			return 0, dataset.Errorf(dataset.ErrUnsupported, "%d is not of %d", at(s), at(base))
		}
		return distance(all)(base, s)
	}
	for _, c := range []struct {
		have  []int
		steps [][2]int
	}{
		{nil, [][2]int{{0, -1}, {1, 0}, {2, 1}, {3, 2}, {4, 1}, {5, 4}}},
		{[]int{3}, [][2]int{{0, -1}, {1, 0}, {2, 1}, {4, 1}, {5, 4}}},
		{[]int{0, 1, 2, 3, 5}, [][2]int{{4, 1}}},
	} {
		var have []uuid.UUID
		for _, i := range c.have {
			have = append(have, all[i].ID)
		}
		plan, err := makePlan(all, have, nil, cost)
		require.NoError(t, err)
		var got [][2]int
		for _, s := range plan.Steps {
			got = append(got, [2]int{at(s.Snapshot.ID), at(s.Base)})
		}
		if !slices.Equal(got, c.steps) {
			t.Errorf("with %v it is %v, want %v", c.have, got, c.steps)
		}
	}
}

func TestPlans(t *testing.T) {
	all := history(6)
	id := func(i int) uuid.UUID {
		if i < 0 {
			return uuid.Nil
		}
		return all[i].ID
	}
	all[3].Kind, all[5].Kind = dataset.SnapshotTransfer, dataset.SnapshotTransfer
	for name, c := range map[string]struct {
		have  []int
		want  int
		steps [][2]int // snapshot, base
	}{
		"nothing is there":               {nil, -1, [][2]int{{0, -1}, {1, 0}, {2, 1}, {4, 2}}},
		"the last one too":               {nil, 5, [][2]int{{0, -1}, {1, 0}, {2, 1}, {4, 2}, {5, 4}}},
		"all is there":                   {[]int{0, 1, 2, 3, 4, 5}, 5, nil},
		"from a transfer snapshot":       {[]int{0, 1, 2, 3}, 5, [][2]int{{4, 3}, {5, 4}}},
		"from the transfer alone":        {[]int{3}, 5, [][2]int{{0, 3}, {1, 0}, {2, 1}, {4, 3}, {5, 4}}},
		"one in the middle lacks":        {[]int{0, 2, 4}, -1, [][2]int{{1, 0}}},
		"the first lacks, a later helps": {[]int{2}, -1, [][2]int{{0, 2}, {1, 0}, {4, 2}}},
	} {
		var have []uuid.UUID
		for _, i := range c.have {
			have = append(have, id(i))
		}
		stranger := uuid.New()
		shuffled := slices.Clone(all)
		slices.Reverse(shuffled)
		plan, err := makePlan(shuffled, append(have, stranger), []uuid.UUID{id(c.want)}, distance(all))
		if err != nil || !slices.Equal(plan.Gone, []uuid.UUID{stranger}) {
			t.Errorf("%s: gone %v, %v", name, plan.Gone, err)
		}
		var got [][2]int
		for _, s := range plan.Steps {
			at := func(id uuid.UUID) int {
				return slices.IndexFunc(all, func(s dataset.Snapshot) bool { return s.ID == id })
			}
			got = append(got, [2]int{at(s.Snapshot.ID), at(s.Base)})
		}
		if !slices.Equal(got, c.steps) {
			t.Errorf("%s: %v, want %v", name, got, c.steps)
		}
	}
}

// After a restore a snapshot is nearer to an older one than to the previous one.
func TestPlanAfterRestore(t *testing.T) {
	all := history(5)
	all[4].Parent = all[1].ID // 1 was restored
	all[3].Kind = dataset.SnapshotRestore
	plan, err := makePlan(all, nil, nil, func(base, s uuid.UUID) (int64, error) {
		if s == all[4].ID && base == all[1].ID {
			return 1, nil
		}
		return 50, nil
	})
	if err != nil || len(plan.Steps) != 5 || plan.Steps[4].Base != all[1].ID || plan.Bytes() != 201 {
		t.Errorf("%+v, %v", plan, err)
	}
}

// For any sets of snapshots: the base of each step exists on both sides by then, and each transferred snapshot is
// there at the end, and is transferred once.
func TestPlansRestOnWhatIsThere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := history(rapid.IntRange(0, 12).Draw(t, "snapshots"))
		kinds := []dataset.SnapshotKind{dataset.SnapshotManual, dataset.SnapshotTransfer, dataset.SnapshotSuperseded, dataset.SnapshotRestore}
		var have, want []uuid.UUID
		for i := range all {
			all[i].Kind = rapid.SampledFrom(kinds).Draw(t, "kind")
			all[i].Epoch = rapid.Uint64Range(1, 3).Draw(t, "epoch")
			if i > 0 {
				all[i].Parent = all[rapid.IntRange(0, i-1).Draw(t, "parent")].ID
			}
			if rapid.Bool().Draw(t, "have") {
				have = append(have, all[i].ID)
			} else if all[i].Kind == dataset.SnapshotTransfer {
				want = append(want, all[i].ID)
			}
		}
		plan, err := makePlan(all, have, want, distance(all))
		require.NoError(t, err)
		there := map[uuid.UUID]bool{uuid.Nil: true}
		for _, id := range have {
			there[id] = true
		}
		for _, s := range plan.Steps {
			if !there[s.Base] || there[s.Snapshot.ID] || (s.Base == uuid.Nil && len(there) > 1) {
				t.Fatalf("step %+v when %d are there", s, len(there)-1)
			}
			there[s.Snapshot.ID] = true
		}
		for _, s := range all {
			if isTransferred(s, want) && !there[s.ID] {
				t.Fatalf("%s of kind %s is not brought", s.ID, s.Kind)
			}
		}
	})
}

// All transfers together get the bandwidth of the limit, and no more.
func TestLimiter(t *testing.T) {
	fake := fakes.NewClock(taken)
	l := NewLimiter(fake, 1000)
	var passed sync.WaitGroup
	for range 4 {
		passed.Go(func() {
			for range 5 {
				assert.NoError(t, l.wait(t.Context(), 500))
			}
		})
	}
	done := make(chan struct{})
	go func() { passed.Wait(); close(done) }()
	var took time.Duration
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(time.Millisecond):
			fake.Advance(100 * time.Millisecond)
			took += 100 * time.Millisecond
		}
	}
	// 20 times 500 bytes, of which a tenth of a second's amount may come early.
	if took < 9800*time.Millisecond {
		t.Errorf("10,000 bytes took %s at 1,000 a second", took)
	}
	l.Set(0)
	if err := l.wait(t.Context(), 1<<40); err != nil || l.piece(1<<20) != 1<<20 {
		t.Error("no limit limits", err)
	}
	l.Set(1000)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.wait(ctx, 1<<20); err == nil {
		t.Error("a wait goes on without anybody")
	}
	var none *Limiter
	if err := none.wait(t.Context(), 1<<40); err != nil || none.piece(5) != 5 {
		t.Error(err)
	}
}

// picky is a pool that sends and receives only what a test allows.
type picky struct {
	backends.Copier
	backends.Pool
	refuse func(snapshot uuid.UUID) error
}

func (p picky) Send(ctx context.Context, src dataset.Source, base uuid.UUID, from int64, w io.Writer, progress backends.Progress) (backends.Stream, error) {
	if err := p.refuse(src.Snapshot); err != nil {
		return backends.Stream{}, err
	}
	return p.Copier.Send(ctx, src, base, from, w, progress)
}

func (p picky) Receive(ctx context.Context, d backends.Delivery, r io.Reader, progress backends.Progress) (backends.Stream, error) {
	if err := p.refuse(d.Snapshot.ID); err != nil {
		return backends.Stream{}, err
	}
	return p.Copier.Receive(ctx, d, r, progress)
}

// The bases of other copies, and the snapshots that all replicas have, are transferred too if they are requested. If
// that fails, the transfer still succeeds.
func TestBasesComeAlong(t *testing.T) {
	for name, ask := range map[string]func(*Pull){
		"bases":  func(p *Pull) { p.Bases = true },
		"shared": func(p *Pull) { p.Shared = true },
	} {
		t.Run(name, func(t *testing.T) { basesComeAlong(t, ask) })
	}
}

func basesComeAlong(t *testing.T, ask func(*Pull)) {
	quiet(t)
	a := newNode(t, "xfs", disk)
	whole := a.pool
	d := a.create(small)
	a.write(d.ID, "one", treetest.Bytes(1, 2<<20))
	base := a.take(d, dataset.SnapshotTransfer)
	a.take(d, dataset.SnapshotTransfer) // no copy is based on it
	a.write(d.ID, "two", treetest.Bytes(2, 1<<20))
	want := a.take(d, dataset.SnapshotTransfer)
	a.bases = []uuid.UUID{base.ID}
	of := func(s dataset.Snapshot, err error) func(*node, uuid.UUID) error {
		return func(_ *node, id uuid.UUID) error {
			if id != s.ID {
				return nil
			}
			return err
		}
	}
	noSpace := dataset.Errorf(dataset.ErrNoSpace, "full")
	for name, c := range map[string]struct {
		asked        bool
		sends, takes func(*node, uuid.UUID) error
		comes        bool
		fails        error
	}{
		"asked for":               {asked: true, comes: true},
		"not asked for":           {},
		"its home cannot send it": {asked: true, sends: of(base, dataset.Errorf(dataset.ErrCorrupt, "bad block"))},
		"its home has it no more": {asked: true, sends: of(base, dataset.Errorf(dataset.ErrNotFound, "gone"))},
		"there is no room for it": {asked: true, takes: of(base, noSpace)},
		"there is no room for all": {asked: true, takes: func(b *node, id uuid.UUID) error {
			if id == want.ID && b.snapshots(d.ID)[base.ID] {
				return noSpace
			}
			return nil
		}},
		"there is no room without it":    {asked: true, takes: of(want, noSpace), fails: dataset.ErrNoSpace},
		"its home cannot send the other": {asked: true, comes: true, sends: of(want, dataset.Errorf(dataset.ErrCorrupt, "bad block")), fails: dataset.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			b := newNode(t, "xfs", disk)
			pick := func(pool backends.Pool, refuse func(*node, uuid.UUID) error) backends.Pool {
				if refuse == nil {
					return pool
				}
				return picky{pool.(backends.Copier), pool, func(id uuid.UUID) error { return refuse(b, id) }}
			}
			a.pool = pick(whole, c.sends)
			p := Pull{Peer: a.http.URL, Dataset: d, Into: pick(b.pool, c.takes), Want: want.ID}
			if c.asked {
				ask(&p)
			}
			_, err := b.client.Pull(t.Context(), p)
			if !errors.Is(err, c.fails) {
				t.Errorf("ended with %v", err)
			}
			got := b.snapshots(d.ID)
			if got[want.ID] != (c.fails == nil) || got[base.ID] != c.comes || len(got) > 2 {
				t.Errorf("it has %v", got)
			}
		})
	}
}

// A partly transferred earlier snapshot is completed first, and the wanted one is sent as a difference to it. So a
// node that restarts during a large transfer, and asks for a newer snapshot, does not send the bytes again. A
// snapshot that the home no longer has is not requested.
func TestBegunIsEnded(t *testing.T) {
	for name, gone := range map[string]bool{"there still": false, "gone": true} {
		t.Run(name, func(t *testing.T) {
			quiet(t)
			a, b := newNode(t, "xfs", disk), newNode(t, "xfs", disk)
			d := a.create(small)
			const whole, came = 5 << 20, 4 << 20
			a.write(d.ID, "one", treetest.Bytes(1, whole))
			begun := a.take(d, dataset.SnapshotTransfer)
			b.client.Tries = 1
			b.wire.set(func(body io.ReadCloser) io.ReadCloser { return &cutter{body, came} })
			if _, err := b.pull(a, d, begun.ID); !errors.Is(err, dataset.ErrOffline) {
				t.Fatalf("cut: %v", err)
			}
			b.wire.set(nil)
			a.write(d.ID, "two", []byte("two"))
			want := a.take(d, dataset.SnapshotTransfer)
			if gone {
				must(t, a.pool.DeleteSnapshot(t.Context(), d.ID, begun.ID))
			}
			got, err := b.pull(a, d, want.ID)
			if err != nil || gone != (got.ReceivedBytes > whole) || b.snapshots(d.ID)[begun.ID] == gone {
				t.Errorf("%d bytes of %d came, of which %d were there: %v", got.ReceivedBytes, whole, came, err)
			}
			b.promote(d, want.ID)
			b.holds(d.ID, "two", []byte("two"))
		})
	}
}

// The log of a node without a recorded copy is kept for as long as the data of a failed move; that of a node with a
// copy, until it has none.
func TestSentLogForgets(t *testing.T) {
	var h SentLog
	copied, moved := uuid.New(), uuid.New()
	d := dataset.Dataset{ID: uuid.New(), Copies: []uuid.UUID{copied}}
	for _, node := range []uuid.UUID{copied, moved} {
		h.Record(d, backends.Entry{}, node, dataset.Snapshot{}, dataset.Snapshot{}, time.Hour)
	}
	for _, c := range []struct {
		copies []uuid.UUID
		now    time.Duration
		others []uuid.UUID
		known  int
	}{
		{d.Copies, time.Hour + KeepFailed - 1, []uuid.UUID{moved}, 2},
		{nil, time.Hour, []uuid.UUID{moved}, 1},
		{nil, time.Hour + KeepFailed, nil, 0},
	} {
		if got := h.nodesWithoutCopy(d.ID, c.copies, c.now); !slices.Equal(got, c.others) || len(h.byDataset[d.ID]) != c.known {
			t.Errorf("copies %v, after %s: others %v, known of %d", c.copies, c.now, got, len(h.byDataset[d.ID]))
		}
	}
	h.Record(d, backends.Entry{}, copied, dataset.Snapshot{}, dataset.Snapshot{}, 0)
	h.Forget(d.ID)
	if len(h.byDataset) > 0 {
		t.Error("it is known still when the dataset has left")
	}
}

// lying is a pool with one entry.
type lying struct {
	backends.Pool
	e backends.Entry
}

func (l lying) Stat(context.Context, uuid.UUID) (backends.Entry, error) { return l.e, nil }

// silent is a control that accepts every report.
type silent struct{ api.Service }

func (silent) ReportCopy(context.Context, uuid.UUID, api.CopyReport) error { return nil }

// After a start, data in a pool is reported as a replica only if it was recorded as one. The home would not ask this
// node for its promise because of data that a move or an earlier copy left, and the volume would continue from it.
func TestI1RecollectsWhatWasOnRecord(t *testing.T) {
	node := uuid.New()
	m := &Moves{Operations: &operation.Operations{Mounts: &mounting.Mounts{Host: &host.Host{Control: silent{}, News: host.NewNews()}}}}
	m.Copies = &Copies{Moves: m}
	p := newReplicas(m)
	for _, recorded := range []bool{false, true} {
		s := dataset.Snapshot{
			ID: uuid.New(), Dataset: uuid.New(), Kind: dataset.SnapshotTransfer, Epoch: 1, Created: time.Now(),
		}
		pool := lying{e: backends.Entry{State: backends.EntryCopy, Snapshots: []dataset.Snapshot{s}}}
		k := api.AssignedCopy{Copy: dataset.Copy{Dataset: s.Dataset, Node: node, Kind: dataset.CopyReplica}}
		if recorded {
			k.Snapshot = uuid.New()
		}
		p.byDataset[s.Dataset] = &replica{}
		require.NoError(t, p.readState(t.Context(), pool, k))
		if c, told := p.Copy(s.Dataset); told != recorded || told && c.Snapshot != s.ID {
			t.Errorf("on record %t: told of %+v", recorded, c)
		}
	}
}

// The state of a move is forgotten with its dataset.
func TestMovesAreForgotten(t *testing.T) {
	ds, move, node := uuid.New(), uuid.New(), uuid.New()
	m := New(&operation.Operations{Mounts: &mounting.Mounts{Host: &host.Host{}, Leases: &lease.Leases{}}, Keys: &operation.Keyring{}}, nil, 0)
	r, c := m.Retention, m.Access
	r.SetBases(ds, move, nil)
	if r.Forget(ds); len(r.bases) > 0 {
		t.Errorf("Retention still knows the bases %v", r.bases)
	}
	c.targets[ds] = target{move, node}
	d := dataset.Dataset{ID: ds, Move: move}
	if !c.isTarget(d, node) {
		t.Error("the target may not read the dataset")
	}
	if c.Forget(ds); len(c.targets) > 0 || c.isTarget(d, node) {
		t.Errorf("Access still knows the targets %v", c.targets)
	}
}
