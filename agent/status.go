package agent

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/offline"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// PoolStates returns the present state of the pools of this node.
func (a *Agent) PoolStates(ctx context.Context) []api.Pool {
	names := map[string]api.Pool{}
	for _, p := range a.Pools.All() {
		names[p.ID.String()] = api.Pool{Pool: p.Pool, NodeName: a.NodeName}
	}
	var out []api.Pool
	for _, st := range a.Pools.Status(ctx) {
		if p, ok := names[st.ID.String()]; ok {
			p.Status = &st
			out = append(out, p)
		}
	}
	return out
}

// Offline returns the API of control for the users of this host. While control is unreachable, this host answers what
// it knows.
func (a *Agent) Offline(control api.Service) api.Service {
	return offline.New(control, offline.Deps{
		Clock: a.Clock, Version: a.Config.Version, Records: a.Cache, NameOf: a.Nodes.Name, StatusOf: a.Status.Status,
		SnapshotsOf: func(ctx context.Context, d dataset.Dataset) ([]dataset.Snapshot, error) {
			p, err := a.Pools.Online(ctx, d.Pool)
			if err != nil {
				return nil, err
			}
			e, err := p.Stat(ctx, d.ID)
			return e.Snapshots, err
		},
		Pools: a.PoolStates,
		Pool: func(id uuid.UUID) (dataset.Pool, bool) {
			p := a.Pools.ByID(id)
			if p == nil {
				return dataset.Pool{}, false
			}
			return p.Pool, true
		},
		LastAnswer: a.Reporter.LastAnswer,
	})
}

// SeenVolumes returns the present state of the volumes that are in use on this node.
func (a *Agent) SeenVolumes(ctx context.Context) []api.Volume {
	var out []api.Volume
	for _, id := range a.Uses.InUse() {
		d, ok := a.Cache.Dataset(id)
		if !ok {
			continue
		}
		st := a.Status.Status(ctx, d)
		out = append(out, api.Volume{Dataset: d, Node: a.NodeName, Status: &st})
	}
	return out
}

// ReplicaLags returns the present state of the replicas on this node. It leaves out volumes in the trash, because
// nothing is written to them.
func (a *Agent) ReplicaLags() (all []ReplicaLag) {
	now := a.Clock.Now()
	for _, id := range a.Cache.CopyIDs() {
		k, _ := a.Cache.Copy(id)
		c, known := a.Replicas.Copy(id)
		if !known || k.Record == nil || k.Record.State != dataset.StateReady {
			continue
		}
		upTo := c.Taken
		if c.VerifiedAt.After(upTo) {
			upTo = c.VerifiedAt
		}
		r := ReplicaLag{Volume: k.Record.Volume, Age: now.Sub(upTo)}
		if f := k.Record.Profile.Failover; f.Auto {
			r.MaxLoss = time.Duration(f.MaxLoss)
		}
		all = append(all, r)
	}
	return all
}

// SupersededVolumes returns the volumes that have a superseded copy on this node. An operator must decide what happens
// to such a copy.
func (a *Agent) SupersededVolumes() (volumes []string) {
	for _, id := range a.Cache.CopyIDs() {
		if k, _ := a.Cache.Copy(id); k.Kind == dataset.CopySuperseded && k.Record != nil {
			volumes = append(volumes, k.Record.Volume)
		}
	}
	return volumes
}

// ReplicaLag is the lag of one replica: it may lack everything that was written at its home during the last Age.
type ReplicaLag struct {
	Volume string
	Age    time.Duration
	// MaxLoss is the maximum age at which the replica may take over automatically. If 0, it never takes over
	// automatically.
	MaxLoss time.Duration
}
