package transfer

import (
	"errors"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Step is one snapshot that is to be brought over.
type Step struct {
	Snapshot dataset.Snapshot `json:"snapshot"`
	Base     uuid.UUID        `json:"base,omitzero"` // that both sides have by then; nil: none
	Bytes    int64            `json:"bytes"`         // that its stream takes, about
}

// Plan says what a copy lacks, in the order in which it is brought over.
type Plan struct {
	Steps []Step      `json:"steps"`
	Gone  []uuid.UUID `json:"gone,omitempty"` // that the copy has, and the source not any more
}

// Bytes is how much all steps take, about.
func (p Plan) Bytes() (sum int64) {
	for _, s := range p.Steps {
		sum += s.Bytes
	}
	return sum
}

// inOrder sorts snapshots by when they were taken: within an epoch by the clock of its
// home.
func inOrder(all []dataset.Snapshot) []dataset.Snapshot {
	return slices.SortedStableFunc(slices.Values(all),
		func(a, b dataset.Snapshot) int { return a.At().Compare(b.At()) })
}

// travels says whether a snapshot belongs to the dataset wherever its home is. Those that
// were taken for another copy do not, but for those that are asked for, nor does what was
// overtaken on one node.
func travels(s dataset.Snapshot, want []uuid.UUID) bool {
	switch s.Kind {
	case dataset.SnapshotTransfer:
		return slices.Contains(want, s.ID)
	case dataset.SnapshotSuperseded:
		return false
	}
	return true
}

// planned decides what a copy that has some snapshots lacks of all, and which of those
// that both have by then each is best sent as a difference to: the one before, the one
// after, or its parent, which after a restore is an older one. Cost says how many bytes
// that takes; base nil: none. A base of which it says ErrUnsupported is none for that one.
func planned(all []dataset.Snapshot, have, want []uuid.UUID,
	cost func(base, snapshot uuid.UUID) (int64, error)) (Plan, error) {
	all = inOrder(all)
	both := map[uuid.UUID]bool{}
	for _, s := range all {
		both[s.ID] = slices.Contains(have, s.ID)
	}
	plan := Plan{Steps: []Step{}}
	for _, id := range have {
		if _, there := both[id]; !there {
			plan.Gone = append(plan.Gone, id)
		}
	}
	for i, s := range all {
		if both[s.ID] || !travels(s, want) {
			continue
		}
		step, err := cheapest(s, near(all, i, both), cost)
		if err != nil {
			return plan, err
		}
		plan.Steps = append(plan.Steps, step)
		both[s.ID] = true
	}
	return plan, nil
}

// near returns the bases that may be near to one of all.
func near(all []dataset.Snapshot, i int, both map[uuid.UUID]bool) (bases []uuid.UUID) {
	for _, s := range slices.Backward(all[:i]) {
		if both[s.ID] {
			bases = append(bases, s.ID)
			break
		}
	}
	for _, s := range all[i+1:] {
		if both[s.ID] {
			bases = append(bases, s.ID)
			break
		}
	}
	if parent := all[i].Parent; both[parent] && !slices.Contains(bases, parent) {
		bases = append(bases, parent)
	}
	return bases
}

func cheapest(s dataset.Snapshot, bases []uuid.UUID, cost func(base, snapshot uuid.UUID) (int64, error)) (Step, error) {
	best := Step{Snapshot: s, Bytes: -1}
	for _, base := range bases {
		n, err := cost(base, s.ID)
		if errors.Is(err, dataset.ErrUnsupported) {
			continue
		}
		if err != nil {
			return best, err
		}
		if best.Bytes < 0 || n < best.Bytes {
			best.Base, best.Bytes = base, n
		}
	}
	if best.Bytes >= 0 {
		return best, nil
	}
	var err error
	best.Bytes, err = cost(uuid.Nil, s.ID)
	return best, err
}
