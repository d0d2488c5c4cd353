package move

import (
	"errors"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Step is one snapshot that must be transferred.
type Step struct {
	Snapshot dataset.Snapshot `json:"snapshot"`
	Base     uuid.UUID        `json:"base,omitzero"` // a snapshot that both sides will have, or uuid.Nil
	Bytes    int64            `json:"bytes"`         // approximate length of its stream
}

// Plan lists the snapshots that a copy lacks, in the order of their transfer.
type Plan struct {
	Steps []Step      `json:"steps"`
	Gone  []uuid.UUID `json:"gone,omitempty"` // snapshots that the copy has and the source no longer has
}

// Bytes returns the approximate length of all steps.
func (p Plan) Bytes() (sum int64) {
	for _, s := range p.Steps {
		sum += s.Bytes
	}
	return sum
}

// isTransferred reports whether a snapshot belongs to the dataset wherever its home is. Superseded heads do not
// belong to it. A snapshot that was taken for another copy is transferred only if want contains it.
func isTransferred(s dataset.Snapshot, want []uuid.UUID) bool {
	switch s.Kind {
	case dataset.SnapshotTransfer:
		return slices.Contains(want, s.ID)
	case dataset.SnapshotSuperseded:
		return false
	}
	return true
}

// makePlan returns the snapshots that a copy lacks. have lists the snapshots of the copy. For each missing snapshot,
// makePlan chooses the cheapest base: the previous snapshot, the next one, or the parent. After a restore, the parent
// is an older snapshot. Both sides must have the base by the time it is needed. cost returns the length of the stream
// in bytes; for a complete stream, its argument base is uuid.Nil. A base for which cost returns ErrUnsupported is not
// used.
func makePlan(all []dataset.Snapshot, have, want []uuid.UUID,
	cost func(base, snapshot uuid.UUID) (int64, error)) (Plan, error) {
	// in the order of time; within an epoch by the clock of its home
	all = slices.SortedStableFunc(slices.Values(all),
		func(a, b dataset.Snapshot) int { return a.At().Compare(b.At()) })
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
		if both[s.ID] || !isTransferred(s, want) {
			continue
		}
		step, err := cheapest(s, nearbyBases(all, i, both), cost)
		if err != nil {
			return plan, err
		}
		plan.Steps = append(plan.Steps, step)
		both[s.ID] = true
	}
	return plan, nil
}

// nearbyBases returns the bases that may be close to a snapshot.
func nearbyBases(all []dataset.Snapshot, i int, both map[uuid.UUID]bool) (bases []uuid.UUID) {
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
