package membership

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// addDrained sets in each node that is being drained whether the drain is complete.
func (m *Members) addDrained(ctx context.Context, nodes []api.Node) error {
	t := record.NewTx(ctx, m.Ledger.Store)
	for i, n := range nodes {
		if !n.Draining {
			continue
		}
		var err error
		if nodes[i].Drained, err = isDrained(t, n.ID); err != nil {
			return err
		}
	}
	return nil
}

// isDrained reports whether a node is the home of no volume and has no replica. Datasets in the trash and superseded
// copies do not count, because a drain leaves them on the node.
func isDrained(t *record.Tx, node uuid.UUID) (bool, error) {
	copies, err := record.ListAll[dataset.Copy](t, record.NodeCopies(node))
	if err != nil {
		return false, err
	}
	for _, c := range copies {
		if c.Kind == dataset.CopyReplica {
			return false, nil
		}
	}
	homes, err := record.ListAll[record.Claim](t, record.HomePrefix(node))
	if err != nil {
		return false, err
	}
	for _, h := range homes {
		var d dataset.Dataset
		if _, err := t.Peek(record.DatasetKey(h.ID), &d); err != nil || d.State == dataset.StateReady {
			return false, err
		}
	}
	return true, nil
}
