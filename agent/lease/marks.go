package lease

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
)

// Marks has the datasets of this node whose lease is bounded although their record may not have failover auto yet: an
// operation gives them failover auto, and control may record it at any time from then on, even if its answer does not
// arrive here. A mark is on disk before control is asked, and stays until the result of the operation is in the record
// on disk. The methods are safe for concurrent use.
//
// A mark is dropped only if control has not recorded and will not record the result of the operation, if the record on
// disk has the result, or if the home is another node now.
type Marks struct {
	host                   *host.Host
	*host.Table[uuid.UUID] // the operation, by dataset
}

// Has reports whether a dataset is marked.
func (m *Marks) Has(id uuid.UUID) bool {
	_, marked := m.Get(id)
	return marked
}

// Settle removes the marks of operations that have ended, once the present record is on disk. It removes none while
// control's store is inconsistent. While control does not answer, it removes only the marks of datasets whose home is
// no longer this node.
func (m *Marks) Settle(ctx context.Context) error {
	var errs []error
	for id := range m.All() {
		errs = append(errs, m.settle(ctx, id))
	}
	return errors.Join(errs...)
}

func (m *Marks) settle(ctx context.Context, id uuid.UUID) error {
	unlock, err := m.host.Locks.Lock(ctx, id, "end of the change of the failover of dataset "+id.String())
	if err != nil {
		return err
	}
	defer unlock()
	return m.settleLocked(ctx, id)
}

// MarkedByOther reports whether a dataset is marked for an operation other than op. It first removes that mark if the
// other operation has ended and its result is on disk: see Settle, whose errors it returns. The caller holds the lock
// of the dataset.
func (m *Marks) MarkedByOther(ctx context.Context, id, op uuid.UUID) (bool, error) {
	if of, marked := m.Get(id); !marked || of == op {
		return false, nil
	}
	err := m.settleLocked(ctx, id)
	return m.Has(id), err
}

// settleLocked is Settle for one dataset, whose lock the caller holds.
func (m *Marks) settleLocked(ctx context.Context, id uuid.UUID) error {
	of, marked := m.Get(id)
	if !marked || m.host.Trust.Err() != nil {
		return nil
	}
	if _, home := m.host.Cache.Dataset(id); !home {
		return m.Drop(ctx, id)
	}
	op, err := m.host.Control.Operation(ctx, of.String(), 0)
	if err == nil && !op.State.Final() {
		return nil // this node carries it out
	}
	if err != nil && !errors.Is(err, dataset.ErrNotFound) { // control forgets operations that ended long ago
		return err
	}
	v, err := m.host.Control.Volume(ctx, id.String())
	if errors.Is(err, dataset.ErrNotFound) {
		return nil // a dataset in the trash may be restored
	}
	if err != nil {
		return err
	}
	d, _ := m.host.Cache.Dataset(id)
	if v.Home != m.host.NodeID || v.Epoch != d.Epoch || v.Profile.Failover.Auto != d.Profile.Failover.Auto {
		return nil // the present record arrives soon
	}
	if err := m.host.Cache.SaveChanged(ctx, m.host.DB); err != nil {
		return err
	}
	return m.Drop(ctx, id)
}
