package operation_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/doctor"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// narrow is backend dir that shares blocks, with a pool whose free and used space the test sets.
type narrow struct {
	dir.Backend
	free, used dataset.Size
}

func (n *narrow) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := n.Backend.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &narrowPool{p, n}, nil
}

type narrowPool struct {
	backends.Pool
	n *narrow
}

func (p *narrowPool) Info() backends.Info {
	info := p.Pool.Info()
	info.Capabilities.InstantSnapshot = true
	return info
}

func (p *narrowPool) Status(ctx context.Context) dataset.PoolStatus {
	st := p.Pool.Status(ctx)
	st.Size, st.Free = 1000*dataset.GiB, p.n.free
	return st
}

func (p *narrowPool) Used(context.Context, uuid.UUID) (dataset.Size, error) { return p.n.used, nil }

// A scheduled snapshot is not taken if overwriting a tenth of its volume could fill the pool. The operation fails,
// with an event, and doctor reports that. A manual snapshot is taken.
func TestScheduledSnapshotIsSkippedInTightPool(t *testing.T) {
	n := &narrow{free: 9 * dataset.GiB, used: 100 * dataset.GiB}
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(n) })
	ctx := t.Context()
	d := r.NewVolume("db")
	d.Profile.Snapshots.Schedule = "@daily"
	r.Cache.Apply(d, 1<<40)
	take := func(scheduled bool) error {
		return r.Perform(ctx, api.Request{Kind: dataset.OpSnapshot, Volume: "db", Scheduled: scheduled})
	}
	if err := take(true); !errors.Is(err, dataset.ErrNoSpace) || !strings.Contains(err.Error(), "no scheduled snapshot while the pool has less than 10GiB free (it has 9GiB)") {
		t.Errorf("scheduled: %v", err)
	}
	rep := &doctor.Report{}
	p, _ := r.Pools.ByName("default")
	other := d
	other.Volume = "another"
	r.CheckTight(ctx, rep, p, d, other) // one finding for the pool
	if len(rep.All) != 1 || rep.All[0].Subject != "pool default" || !strings.Contains(rep.All[0].Text, "2 (another, db)") || rep.All[0].Level != host.Warning || !strings.Contains(rep.All[0].Text, "no scheduled snapshot") ||
		!strings.Contains(rep.All[0].Text, "or take a snapshot manually") {
		t.Errorf("doctor: %+v", rep.All)
	}
	n.free = dataset.GiB // the pool refuses a manual snapshot too
	full := &doctor.Report{}
	r.CheckTight(ctx, full, p, d)
	if len(full.All) != 1 || strings.Contains(full.All[0].Text, "manually") || !strings.Contains(full.All[0].Text, "drover snapshot ls --size") {
		t.Errorf("doctor about a full pool: %+v", full.All)
	}
	n.free = 9 * dataset.GiB
	if err := take(false); err != nil {
		t.Errorf("by hand: %v", err)
	}
	n.free = 10 * dataset.GiB
	if err := take(true); err != nil {
		t.Errorf("with enough free: %v", err)
	}
	if r.CheckTight(ctx, rep, p, d); len(rep.All) != 1 {
		t.Errorf("doctor: %+v", rep.All)
	}
}

// A crash prevented the report of a snapshot that was taken. The snapshot is reported, and nothing is quiesced again:
// the pool, or the disk of the root, may be too full by then, and a failure would leave the snapshot behind.
func TestFinishedScheduledSnapshotIsReportedFromTightPool(t *testing.T) {
	n := &narrow{free: 100 * dataset.GiB, used: 100 * dataset.GiB}
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(n) })
	ctx := t.Context()
	d := r.NewVolume("db")
	out, err := r.Control.Plan(ctx, r.Node(), api.Request{Kind: dataset.OpSnapshot, Volume: "db", Scheduled: true})
	if err != nil {
		t.Fatal(err)
	}
	p, _ := r.Pools.ByName("default")
	if err := p.Storage.Snapshot(ctx, *out.Operation.Snapshot, nil); err != nil {
		t.Fatal(err)
	}
	n.free = dataset.GiB
	if _, err := r.Execute(ctx, &host.Job{}, *out.Operation); err != nil {
		t.Errorf("again: %v", err)
	}
	list, err := r.Control.Snapshots(ctx, d.ID.String(), api.Page{})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("on record: %+v, %v", list.Items, err)
	}
}
