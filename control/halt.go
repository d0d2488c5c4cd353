package control

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
)

// halted fails with dataset.ErrConflict while the store is inconsistent. A transaction assumes that it is not,
// and has the commit check that, before it reads the key: the key hardly ever exists. A plan does not read it,
// because a transaction follows.
func (t *tx) halted() error {
	if t.looks {
		return nil
	}
	t.suppose(store.Entry{Key: record.HaltedKey})
	var h record.Halt
	there, err := t.get(record.HaltedKey, &h)
	if err != nil || !there {
		return err
	}
	return h.Err()
}

// Halted returns why changes are suspended, because the store is inconsistent; "" if they are not.
func (s *Service) Halted(ctx context.Context) (why string, err error) {
	var h record.Halt
	there, err := newTx(ctx, s.store).peek(record.HaltedKey, &h)
	if err != nil || !there {
		return "", err
	}
	return h.Err().Error(), nil
}

// noteTrust records that a node does not trust the store, or does again. It costs nothing while the node says the
// same as before, except for an occasional look at the record: another service may have written it, and be gone.
func (s *Service) noteTrust(t *tx, node uuid.UUID, why string, look bool) error {
	if was, heard := s.seen.trust(node); heard && was == why && !look {
		return nil
	}
	var is record.Halt
	if _, err := t.get(record.HaltedKey, &is); err != nil || is.Nodes[node] == why {
		return err
	}
	_, err := s.update(t.ctx, func(t *tx) error {
		if why == "" {
			return clearDistrust(t, node)
		}
		var h record.Halt
		there, err := t.get(record.HaltedKey, &h)
		if err != nil || h.Nodes[node] == why {
			return err
		}
		if h.Nodes == nil {
			h.Nodes = map[uuid.UUID]string{}
		}
		h.Nodes[node], h.Shared = why, s.Shared
		if !there {
			h.At = s.Clock.Now()
		}
		return t.put(record.HaltedKey, h)
	})
	return err
}

// clearDistrust removes the report of a node that trusts the store again, or that is no node any more. When the last
// report is removed, the cluster continues.
func clearDistrust(t *tx, node uuid.UUID) error {
	var h record.Halt
	if _, err := t.get(record.HaltedKey, &h); err != nil || h.Nodes[node] == "" {
		return err
	}
	if len(h.Nodes) == 1 && h.Saw == 0 {
		t.del(record.HaltedKey)
		return nil
	}
	delete(h.Nodes, node)
	return t.put(record.HaltedKey, h)
}
