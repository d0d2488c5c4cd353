package pooladmin_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// I3: while another node says that the store is older than what that node knows, the store may lack the record of any
// dataset. So nothing is destroyed because it has no record, although this node itself sees no difference.
func TestI3CollectKeepsDataIfPeerRejectsStore(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	d := r.NewIncoming()
	r.Link.ChangeSync(func(s *api.Sync) { s.Halted = "node host-b says that it is older" })
	for _, dryRun := range []bool{true, false} {
		_, err := r.Collect(ctx, d.ID, dryRun)
		if !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "node host-b says that it is older") {
			t.Errorf("dry run %t: %v", dryRun, err)
		}
	}
	if got := r.ListPool("incoming"); len(got) != 1 {
		t.Errorf("in the pool: %v", got)
	}
	r.Link.ChangeSync(nil)
	if _, err := r.Collect(ctx, d.ID, false); err != nil {
		t.Error(err)
	}
}
