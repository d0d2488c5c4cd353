package handover_test

import (
	"bytes"
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// losing is a control that records that a node has relinquished a dataset. Then its store is replaced by a backup, and
// the node gets no reply.
type losing struct {
	api.Service
	f      *agenttest.Cluster
	backup []store.Entry
	lost   atomic.Bool
}

func (l *losing) Yield(ctx context.Context, node uuid.UUID, y api.Yield) (err error) {
	if y.Manifest == nil {
		return l.Service.Yield(ctx, node, y)
	}
	if l.lost.Load() {
		return l.Service.Yield(ctx, node, y)
	}
	if err = l.Service.Yield(ctx, node, y); err == nil {
		err = restore(ctx, l.f.ControlStore, l.backup)
	}
	if err != nil {
		l.f.Errorf("the answer was not recorded: %v", err)
	}
	l.lost.Store(true)
	return dataset.Errorf(dataset.ErrUnavailable, "the reply was lost")
}

// restore gives a store the entries of a backup, and no others. Entries of sessions stay.
func restore(ctx context.Context, s store.Store, backup []store.Entry) error {
	now, err := s.List(ctx, "", "", 0)
	if err != nil {
		return err
	}
	values := map[string][]byte{}
	for _, e := range backup {
		values[e.Key] = e.Value
	}
	var writes []store.Write
	for _, e := range now {
		value, kept := values[e.Key]
		delete(values, e.Key)
		if !strings.HasPrefix(e.Key, store.LivePrefix) && (!kept || !bytes.Equal(value, e.Value)) {
			writes = append(writes, store.Write{Key: e.Key, Value: value, Delete: !kept})
		}
	}
	for key, value := range values {
		if !strings.HasPrefix(key, store.LivePrefix) {
			writes = append(writes, store.Write{Key: key, Value: value})
		}
	}
	_, err = s.Txn(ctx, nil, writes)
	return err
}

// Control records the answer of the home to a move, but the reply is lost, and so is the store: it is replaced by a
// backup of before the move. Another node may have opened the next epoch, so the home does not open its own again.
func TestI1LostReplyThenRestoredStore(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", nil)
	f.A.WriteFile("db", "token", "kept")
	f.A.Stop()
	l := &losing{Service: f.A.Config.Control, f: f}
	f.A.Config.Control = l
	f.A.Start()
	var err error
	if l.backup, err = f.ControlStore.List(t.Context(), "", "", 0); err != nil {
		t.Fatal(err)
	}
	f.BeginMove("db", f.B)
	agenttest.Await(t, l.lost.Load)
	agenttest.Await(t, func() bool {
		y, relinquished := f.A.Leases.Relinquished(d.ID)
		return y.Reported || !relinquished
	})
	y, relinquished := f.A.Leases.Relinquished(d.ID)
	if !relinquished || y.Epoch != d.Epoch || y.Manifest == nil {
		t.Errorf("the epoch may be opened again: %+v", y)
	}
	if _, err := f.A.Mount(t.Context(), "db", "one"); err == nil {
		t.Error("it is mounted at an epoch that may have ended")
	}
}
