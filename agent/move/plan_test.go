package move

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
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
		if err != nil {
			t.Fatal(err)
		}
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
		if err != nil {
			t.Fatal(err)
		}
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
	fake := clock.NewFake(taken)
	l := NewLimiter(fake, 1000)
	var passed sync.WaitGroup
	for range 4 {
		passed.Go(func() {
			for range 5 {
				if err := l.wait(t.Context(), 500); err != nil {
					t.Error(err)
				}
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
