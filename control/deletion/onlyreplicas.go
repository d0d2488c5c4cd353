package deletion

import (
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// onlyReplicas returns the sorted names of the volumes that have one replica, if a node has it. The homes of these
// volumes have the data too. It leaves out volumes in the trash, and replicas that are not complete.
func onlyReplicas(t *record.Tx, ref string) (volumes []string, err error) {
	n, err := t.FindNode(ref)
	if err != nil {
		return nil, err
	}
	copies, err := record.ListAll[dataset.Copy](t, record.NodeCopies(n.ID))
	if err != nil {
		return nil, err
	}
	for _, c := range copies {
		if !isReplica(c) {
			continue
		}
		var d dataset.Dataset
		there, err := t.Peek(record.DatasetKey(c.Dataset), &d)
		if err != nil {
			return nil, err
		}
		if !there || d.State != dataset.StateReady {
			continue
		}
		another, err := hasReplica(t, d.ID, record.WithoutNode(d.Copies, n.ID))
		if err != nil {
			return nil, err
		}
		if !another {
			volumes = append(volumes, d.Volume)
		}
	}
	slices.Sort(volumes)
	return volumes, nil
}

// hasReplica reports whether one of the nodes has a complete replica of a dataset.
func hasReplica(t *record.Tx, id uuid.UUID, nodes []uuid.UUID) (bool, error) {
	for _, node := range nodes {
		var c dataset.Copy
		if _, err := t.Peek(record.CopyKey(node, id), &c); err != nil {
			return false, err
		}
		if isReplica(c) {
			return true, nil
		}
	}
	return false, nil
}

// isReplica reports whether a copy is a complete replica, and not one that expires after a move.
func isReplica(c dataset.Copy) bool { return c.Promotable() && c.Kind == dataset.CopyReplica }
