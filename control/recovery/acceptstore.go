package recovery

import (
	"context"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/ledger"
	"github.com/droverhq/drover/control/notify"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// maxClock bounds the store clock that an agent reports, so that the sum of the lanes never overflows. Some JSON
// parsers cannot represent larger integers.
const maxClock = 1 << 53

// AcceptStore prepares the store of a single host for its agent, which did not trust it and has rebuilt its records. It
// removes the grants, unless a.KeepGrants is set. It also raises the store clock above the highest one that the agent
// knows. Otherwise the agent would take the store for an older one again. Idempotent.
//
// It fails with dataset.ErrUnsupported for the store of a cluster, with ErrNotFound for a node that is not recorded,
// and with ErrInvalid for an impossible clock. With a.DryRun nothing is changed.
func (rc *Recovery) AcceptStore(ctx context.Context, node uuid.UUID, a api.AcceptStore) (out api.AcceptedStore,
	err error) {
	out.RemovedGrants = []string{}
	if rc.Shared {
		return out, dataset.Errorf(dataset.ErrUnsupported,
			"the store belongs to a cluster (drover store recover updates it)")
	}
	if a.StoreClock > maxClock {
		return out, dataset.Errorf(dataset.ErrInvalid, "node %s: its store clock is %d, and at most %d is possible",
			node, a.StoreClock, uint64(maxClock))
	}
	t := record.NewTx(ctx, rc.Ledger.Store)
	if there, err := t.Peek(record.NodeKey(node), &dataset.Node{}); err != nil {
		return out, err
	} else if !there {
		return out, dataset.Errorf(dataset.ErrNotFound, "node %s is not recorded", node)
	}
	if !a.KeepGrants {
		names, err := grantNames(t)
		if err != nil {
			return out, err
		}
		out.RemovedGrants = append(out.RemovedGrants, names...)
	}
	if a.DryRun {
		return out, nil
	}
	for some := range slices.Chunk(out.RemovedGrants, grantsAtOnce) {
		if _, err := rc.Ledger.Update(ctx, func(t *record.Tx) error {
			t.Recovering = true
			deleteGrants(t, some)
			return nil
		}); err != nil {
			return out, err
		}
	}
	// The clock is raised last: if this is interrupted, the agent still does not trust the store.
	_, err = rc.Ledger.Update(ctx, func(t *record.Tx) error { return raiseClock(t, a.StoreClock) })
	return out, err
}

// raiseClock raises the store clock above an earlier one, if it is not above it already.
func raiseClock(t *record.Tx, earlier uint64) error {
	entries, err := t.List(record.RevPrefix, "", 0)
	if err != nil {
		return err
	}
	clock, err := ledger.StoreClockOf(entries, nil)
	if err != nil || clock > earlier {
		return err
	}
	var dropped notify.LaneValue
	if _, err := t.Get(record.RemovedLanesKey, &dropped); err != nil {
		return err
	}
	dropped.Count += earlier - clock + clockMargin
	return t.Put(record.RemovedLanesKey, dropped)
}
