package move

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/control/api"
)

// targetReports is how long the target of a move must be reachable without interruption before its silence about the
// move counts. Soon after it has registered, an agent compares control's store with what it has seen before.
const targetReports = time.Minute

// lostAnswer decides whether this node may open an epoch again that it has relinquished. Control gives it that epoch,
// and does not know the move. There are two explanations: the record of the move has expired, or control's store was
// restored from a backup of before the move. If an answer was sent, the lost store may have recorded it, and the target
// may have opened the next epoch. An answer is sent once its manifest is on disk.
//
// Control keeps the record of a move for a day after its end. restored says that the record cannot have expired yet, so
// the store was restored. A time in the future shows only that the clock was set, so the age of the answer is unknown.
// Otherwise keep says why the dataset must stay relinquished, and what to do: this node has not yet seen the target
// reachable for a minute, or a node has halted the store, as the target does if the store lacks its epoch. A target
// that is fenced, or that was removed from the cluster, does not write. If keep is empty, the record has expired.
func (m *Moves) lostAnswer(ctx context.Context, id uuid.UUID, y lease.Relinquished) (restored bool, keep string,
	err error) {
	if y.Manifest == nil || y.Reported {
		return false, "", nil
	}
	asked := m.Clock.Now()
	if age := asked.Sub(y.Answered); age >= 0 && age < api.OperationRetention {
		return true, "", nil
	}
	nodes, err := m.Control.NodeList(ctx, "")
	if err != nil {
		return false, "", err
	}
	for _, n := range nodes {
		if n.ID != y.To || n.Fenced {
			continue
		}
		seen := m.Leases.TargetSeen(id, n, asked, m.Clock.Now())
		if !n.Live {
			return false, "that node is not reachable (start it; or, when it certainly writes no more, drover node " +
				"fence " + n.Name + ", or on a single host drover node rm " + n.Name + " --dry-run)", nil
		}
		if seen < targetReports {
			return false, fmt.Sprintf("that node must be reachable for %s first (try again then)", targetReports), nil
		}
	}
	s, err := m.Control.Sync(ctx, m.NodeID, 0, 0) // read after the nodes: the target halts the store in its minute
	return false, s.Halted, err
}
