package handover

import (
	"context"
	"time"

	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// targetReports is how long the target of a move must have been reachable before its silence about the move counts. An
// agent compares control's store with what it has seen when it registers, and at each heartbeat.
const targetReports = time.Minute

// lostAnswer decides what an answer to a move means that control may have recorded, although its reply was lost. An
// answer is sent once its manifest is on disk. If control does not know the move, there are two explanations: its
// record has expired, or control's store was restored from a backup of before the move. The lost store may then have
// recorded the answer, and the target may have opened the next epoch.
//
// Control keeps the record of a move for a day after its end. restored says that the record cannot have expired yet, so
// the store was restored. waits says that the record may have expired, but the target has not been reachable for a
// minute, so it may still have the next epoch. A reachable target would have halted the store, in which case lostAnswer
// fails with dataset.ErrConflict. A target that is fenced, or that was removed from the cluster, does not write.
func (r *Relinquisher) lostAnswer(ctx context.Context, y lease.Relinquished, unknown bool) (restored, waits bool,
	err error) {
	if !unknown || y.Manifest == nil || y.Reported {
		return false, false, nil
	}
	now := r.Clock.Now()
	if !y.Answered.IsZero() && now.Sub(y.Answered) < api.OperationRetention {
		return true, false, nil
	}
	nodes, err := r.Control.NodeList(ctx, "")
	if err != nil {
		return false, false, err
	}
	for _, n := range nodes {
		if n.ID == y.To && !n.Fenced && !(n.Live && now.Sub(n.StatusSince) >= targetReports) {
			return false, true, nil
		}
	}
	s, err := r.Control.Sync(ctx, r.NodeID, 0, 0) // read after the nodes: the target halts the store before it counts
	if err == nil && s.Halted != "" {
		err = dataset.Errorf(dataset.ErrConflict, "%s", s.Halted)
	}
	return false, false, err
}
