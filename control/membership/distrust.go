package membership

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/record"
)

// recordTrust records whether a node trusts the store. why is the reason for its distrust, or "" if the node trusts the
// store.
//
// If the node reports the same as in its previous heartbeat, recordTrust does not read the store, unless look is true.
// The caller sets look from time to time, because the record may be outdated: another service may have written it after
// an earlier report of the node, and may have stopped before the next report.
func (m *Members) recordTrust(t *record.Tx, node uuid.UUID, why string, look bool) error {
	if was, heard := m.Reports.Distrust(node); heard && was == why && !look {
		return nil
	}
	var is record.Halt
	if _, err := t.Get(record.HaltedKey, &is); err != nil || is.Nodes[node] == why {
		return err
	}
	_, err := m.Ledger.Update(t.Context(), func(t *record.Tx) error {
		if why == "" {
			return ClearDistrust(t, node)
		}
		var h record.Halt
		there, err := t.Get(record.HaltedKey, &h)
		if err != nil || h.Nodes[node] == why {
			return err
		}
		if h.Nodes == nil {
			h.Nodes = map[uuid.UUID]string{}
		}
		h.Nodes[node], h.Shared = why, m.Ledger.Shared
		if !there {
			h.At = m.Ledger.Clock.Now()
		}
		return t.Put(record.HaltedKey, h)
	})
	return err
}

// ClearDistrust removes a node from the record of the nodes that do not trust the store. It is called when the node
// trusts the store again, or was removed from the cluster. When no node is left in the record, the halt ends, unless a
// service has seen a higher store clock than the present one.
func ClearDistrust(t *record.Tx, node uuid.UUID) error {
	var h record.Halt
	if _, err := t.Get(record.HaltedKey, &h); err != nil || h.Nodes[node] == "" {
		return err
	}
	if len(h.Nodes) == 1 && h.HighestClock == 0 {
		t.Delete(record.HaltedKey)
		return nil
	}
	delete(h.Nodes, node)
	return t.Put(record.HaltedKey, h)
}
