package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// halt is the value of haltedKey, which is there while the store is not to be
// believed: it went back to an older state, or is another one. What was decided on it
// would be decided on what is long over: a name that is free in it may be a volume's,
// and a change may win over a later one. So no service decides anything until whoever
// said so believes it again.
type halt struct {
	At    time.Time            `json:"at"`
	Nodes map[uuid.UUID]string `json:"nodes,omitempty"` // why each does not believe it
	// Saw is the highest clock that a service or node has seen, of more than the store
	// has. What a service saw ends with drover store recover alone.
	Saw    uint64 `json:"saw,omitempty"`
	Shared bool   `json:"shared,omitempty"` // by several services: see mend
}

// halted fails with ErrConflict while the store is not to be believed. A transaction
// takes that for not so, and checks it, before it reads it: the key is hardly ever
// there. A plan does not read it: what comes of it is a transaction.
func (t *tx) halted() error {
	if t.looks {
		return nil
	}
	t.suppose(store.Entry{Key: haltedKey})
	var h halt
	there, err := t.get(haltedKey, &h)
	if err != nil || !there {
		return err
	}
	return h.err()
}

// Halted says why nothing is decided, as the store is not to be believed; "" while it is.
func (s *Service) Halted(ctx context.Context) (why string, err error) {
	var h halt
	there, err := newTx(ctx, s.store).peek(haltedKey, &h)
	if err != nil || !there {
		return "", err
	}
	return h.err().Error(), nil
}

func (h halt) err() error {
	var why []string
	for id, w := range h.Nodes {
		why = append(why, fmt.Sprintf("node %s says that %s", id, w))
	}
	slices.Sort(why)
	if len(why) == 0 {
		why = []string{"it went back to what it was before"}
	}
	return dataset.Errorf(dataset.ErrConflict, "nothing is changed while the store is not to be believed: %s (%s)", strings.Join(why, "; "), h.mend())
}

// mend is what brings the store up to date.
func (h halt) mend() string {
	if h.Shared {
		return "drover store recover"
	}
	return "drover store rebuild, on each of these hosts"
}

// noteTrust puts on record that a node does not believe the store, or does again. It
// costs nothing as long as the node says what it said before, but now and then a look at
// the record, since another service may have written that, and be gone.
func (s *Service) noteTrust(t *tx, node uuid.UUID, why string, look bool) error {
	if was, heard := s.seen.trust(node); heard && was == why && !look {
		return nil
	}
	var is halt
	if _, err := t.get(haltedKey, &is); err != nil || is.Nodes[node] == why {
		return err
	}
	_, err := s.update(t.ctx, func(t *tx) error {
		if why == "" {
			return t.trusts(node)
		}
		var h halt
		there, err := t.get(haltedKey, &h)
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
		return t.put(haltedKey, h)
	})
	return err
}

// trusts takes back what a node said of the store: it believes it again, or is none any
// more. The last one lets the cluster go on.
func (t *tx) trusts(node uuid.UUID) error {
	var h halt
	if _, err := t.get(haltedKey, &h); err != nil || h.Nodes[node] == "" {
		return err
	}
	if len(h.Nodes) == 1 && h.Saw == 0 {
		t.del(haltedKey)
		return nil
	}
	delete(h.Nodes, node)
	return t.put(haltedKey, h)
}
