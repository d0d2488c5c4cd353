package control

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
)

// halted fails with ErrConflict while the store is not to be believed. A transaction
// takes that for not so, and checks it, before it reads it: the key is hardly ever
// there. A plan does not read it: what comes of it is a transaction.
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

// Halted says why nothing is decided, as the store is not to be believed; "" while it is.
func (s *Service) Halted(ctx context.Context) (why string, err error) {
	var h record.Halt
	there, err := newTx(ctx, s.store).peek(record.HaltedKey, &h)
	if err != nil || !there {
		return "", err
	}
	return h.Err().Error(), nil
}

// noteTrust puts on record that a node does not believe the store, or does again. It
// costs nothing as long as the node says what it said before, but now and then a look at
// the record, since another service may have written that, and be gone.
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
			return t.trusts(node)
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

// trusts takes back what a node said of the store: it believes it again, or is none any
// more. The last one lets the cluster go on.
func (t *tx) trusts(node uuid.UUID) error {
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
