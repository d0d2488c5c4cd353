package move

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// noTransfers is a transfer server that sends nothing.
type noTransfers struct{ Transfers }

func (noTransfers) Forget(uuid.UUID) {}

// The state of a move is forgotten with its dataset.
func TestMovesAreForgotten(t *testing.T) {
	ds, move, node := uuid.New(), uuid.New(), uuid.New()
	r := NewRetention(RetentionDeps{Transfers: noTransfers{}})
	r.SetBases(ds, move, nil)
	if r.Forget(ds); len(r.bases) > 0 {
		t.Errorf("Retention still knows the bases %v", r.bases)
	}
	c := NewAccess(nil)
	c.targets[ds] = target{move, node}
	d := dataset.Dataset{ID: ds, Move: move}
	if !c.isTarget(d, node) {
		t.Error("the target may not read the dataset")
	}
	if c.Forget(ds); len(c.targets) > 0 || c.isTarget(d, node) {
		t.Errorf("Access still knows the targets %v", c.targets)
	}
}
