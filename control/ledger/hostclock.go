package ledger

import (
	"context"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/notify"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
)

// A store that belongs to a single host has no lanes. If it is restored from a backup, the host notices that from the
// indexes of its datasets. The removal of a grant changes no dataset, so only the store clock shows that it is missing.
// Each transaction that removes a grant raises this clock, in record.RemovedLanesKey.

// HostClock returns the clock of a store that belongs to a single host. It is at least 1, because agents ignore the
// clock 0. The clock of a store that was imported from a cluster includes the lanes of the cluster.
func (l *Ledger) HostClock(ctx context.Context) (uint64, error) {
	entries, err := l.Store.List(ctx, record.RevPrefix, "", 0)
	if err != nil {
		return 0, record.ReadError(ctx, err)
	}
	clock, err := StoreClockOf(entries, nil)
	return max(clock, 1), err
}

// removesGrant reports whether a transaction removes a grant.
func removesGrant(t *record.Tx) bool {
	return slices.ContainsFunc(t.Writes(), func(w store.Write) bool {
		return w.Delete && strings.HasPrefix(w.Key, record.GrantsPrefix)
	})
}

// countGrantRemoval raises the clock of a single host's store, and notifies the agent, which must learn of the clock
// before it can notice that the store was restored. The first removal raises the clock to 2.
//
// While the store is halted, the clock stays. Otherwise it could reach the clock that the agent has seen, and the agent
// would trust a restored store that still has removed grants.
func countGrantRemoval(t *record.Tx) error {
	if t.Recovering {
		return nil
	}
	if halted, err := t.Get(record.HaltedKey, &record.Halt{}); err != nil || halted {
		return err
	}
	var dropped notify.LaneValue
	if _, err := t.Get(record.RemovedLanesKey, &dropped); err != nil {
		return err
	}
	dropped.Count = max(dropped.Count, 1) + 1
	if err := t.Put(record.RemovedLanesKey, dropped); err != nil {
		return err
	}
	nodes, err := t.List(record.NodesPrefix, "", 0)
	for _, e := range nodes {
		if id, err := uuid.Parse(strings.TrimPrefix(e.Key, record.NodesPrefix)); err == nil {
			t.WakeNode(id)
		}
	}
	return err
}
