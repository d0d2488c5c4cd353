package controlsync_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A cluster shrank to a single host. Its store was restored from a backup of before a move to another node. A rebuild
// gives the volume a later epoch than the other node may have opened. After that, the store is consistent, and the
// volume can be used.
func TestI1RebuildReplacesRelinquishedEpoch(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	d := r.NewVolume("db")
	y := lease.Relinquished{Epoch: d.Epoch, Move: uuid.New(), To: uuid.New(), Reported: true}
	if err := r.Leases.Relinquish(ctx, d.ID, y); err != nil {
		t.Fatal(err)
	}
	r.Restart()
	if got := r.StoreFinding(); !strings.Contains(got, "older") {
		t.Fatalf("doctor says %q", got)
	}
	if _, err := r.Mount(ctx, "db", "one"); err == nil {
		t.Error("it is mounted at an epoch that has ended")
	}
	if out, err := r.RebuildStore(ctx, api.RebuildStore{}); err != nil || len(out) != 1 || out[0].Action != "restored" {
		t.Errorf("got %+v, %v", out, err)
	}
	r.Restart()
	if got := r.StoreFinding(); got != "" {
		t.Errorf("after the rebuild, doctor says %q", got)
	}
	if now, _ := r.Cache.Dataset(d.ID); now.Epoch != d.Epoch+2 {
		t.Errorf("it is at epoch %d, want %d", now.Epoch, d.Epoch+2)
	}
	agenttest.Await(t, func() bool {
		_, relinquished := r.Leases.Relinquished(d.ID)
		return !relinquished
	})
	r.MustMount("db", "one")
	r.MustUnmount("db", "one")
}

// One rebuild is enough if control may have recorded a relinquished epoch, and its reply was lost.
func TestRebuildReplacesEpochAfterLostReply(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	d := r.NewVolume("db")
	y := lease.Relinquished{
		Epoch: d.Epoch, Move: uuid.New(), To: uuid.New(), Manifest: &dataset.Manifest{Snapshot: uuid.New()}, Answered: r.Clock.Now(),
	}
	if err := r.Leases.Relinquish(ctx, d.ID, y); err != nil {
		t.Fatal(err)
	}
	if out, err := r.RebuildStore(ctx, api.RebuildStore{}); err != nil || len(out) != 1 || out[0].Action != "restored" {
		t.Errorf("got %+v, %v", out, err)
	}
	if err := r.DropIfUnneeded(ctx, d.ID, y); err != nil {
		t.Error(err)
	}
	r.Restart()
	if got := r.StoreFinding(); got != "" {
		t.Errorf("after the rebuild, doctor says %q", got)
	}
	agenttest.Await(t, func() bool {
		_, relinquished := r.Leases.Relinquished(d.ID)
		return !relinquished
	})
	r.MustMount("db", "one")
	r.MustUnmount("db", "one")
}

// I1: a host of a cluster rebuilds nothing from its own pools, because another node may have a later epoch.
func TestI1RebuildInClusterIsRefused(t *testing.T) {
	c := agenttest.NewCluster(t, "dir", "dir")
	for _, dry := range []bool{true, false} {
		_, err := c.A.RebuildStore(t.Context(), api.RebuildStore{DryRun: dry})
		if dataset.KindOf(err) != dataset.ErrUnsupported || !strings.Contains(err.Error(), "drover store recover") {
			t.Errorf("dry run %t: %v", dry, err)
		}
	}
}
