package move

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// lying is a pool with one entry.
type lying struct {
	backends.Pool
	e backends.Entry
}

func (l lying) Stat(context.Context, uuid.UUID) (backends.Entry, error) { return l.e, nil }

// silent is a control that accepts every report.
type silent struct{ api.Service }

func (silent) ReportCopy(context.Context, uuid.UUID, api.CopyReport) error { return nil }

// After a start, data in a pool is reported as a replica only if it was recorded as one. The home would not ask this
// node for its promise because of data that a move or an earlier copy left, and the volume would continue from it.
func TestI1RecollectsWhatWasOnRecord(t *testing.T) {
	node := uuid.New()
	m := &Moves{Operations: &operation.Operations{Mounts: &mounting.Mounts{Host: &host.Host{Control: silent{}, News: host.NewNews()}}}}
	m.Copies = &Copies{Moves: m}
	p := newReplicas(m)
	for _, recorded := range []bool{false, true} {
		s := dataset.Snapshot{
			ID: uuid.New(), Dataset: uuid.New(), Kind: dataset.SnapshotTransfer, Epoch: 1, Created: time.Now(),
		}
		pool := lying{e: backends.Entry{State: backends.EntryCopy, Snapshots: []dataset.Snapshot{s}}}
		k := api.AssignedCopy{Copy: dataset.Copy{Dataset: s.Dataset, Node: node, Kind: dataset.CopyReplica}}
		if recorded {
			k.Snapshot = uuid.New()
		}
		p.byDataset[s.Dataset] = &replica{}
		if err := p.readState(t.Context(), pool, k); err != nil {
			t.Fatal(err)
		}
		if c, told := p.Copy(s.Dataset); told != recorded || told && c.Snapshot != s.ID {
			t.Errorf("on record %t: told of %+v", recorded, c)
		}
	}
}
