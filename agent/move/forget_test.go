package move

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/dataset"
)

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
