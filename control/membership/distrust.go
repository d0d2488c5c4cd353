package membership

import (
	"github.com/droverhq/drover/control/record"
	"github.com/google/uuid"
)

// recordTrust records that a node does not trust the store, or that it trusts the store again. While the node reports
// the same as before, it reads nothing, except now and then (look): another service may have written the record, and
// may have ended.
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
		h.Nodes[node], h.Shared = why, m.Shared
		if !there {
			h.At = m.Ledger.Clock.Now()
		}
		return t.Put(record.HaltedKey, h)
	})
	return err
}

// ClearDistrust removes the report of a node that trusts the store again, or that was removed. When the last report is
// removed, the halt ends.
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
