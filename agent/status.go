package agent

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/iolimit"
)

// SeenVolumes returns the present state of the volumes that are in use on this node. It does not fail.
func (a *Agent) SeenVolumes(ctx context.Context) ([]api.VolumeSummary, error) {
	var out []api.VolumeSummary
	for _, id := range a.Uses.InUse() {
		d, ok := a.Cache.Dataset(id)
		if !ok {
			continue
		}
		st := a.Status.Status(ctx, d)
		out = append(out, api.VolumeSummary{ID: d.ID, Volume: d.Volume, Size: d.Size, Node: a.NodeName, Status: &st})
	}
	return out, nil
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
		r := ReplicaLag{
			Volume: k.Record.Volume, Age: now.Sub(upTo), Interval: time.Duration(k.Record.Profile.Replicas.Every),
		}
		if f := k.Record.Profile.Failover; f.Auto {
			r.MaxLoss = time.Duration(f.MaxLoss)
		}
		all = append(all, r)
	}
	return all
}

// TrashedDataset is a deleted dataset that is kept on a node.
type TrashedDataset = controlsync.TrashedDataset

// TrashUsage is controlsync.TrashReader.Read.
func (a *Agent) TrashUsage(ctx context.Context) []TrashedDataset { return a.Trash.Read(ctx) }

// Session returns the age and the validity of this node's session with control. age is the time since the last answered
// renewal was sent, and ttl is how long the session is valid after a renewal. ok is false if control requires no
// session, or has not answered yet.
func (a *Agent) Session() (age, ttl time.Duration, ok bool) {
	renewed, ttl := a.Leases.Deadlines.Session()
	return a.Clock.Steady() - renewed, ttl, ttl > 0
}

// VolumeIO returns how much the mounted volumes of this node were read and written, by name. It leaves out volumes that
// share the block device of their pool, because the counters of that device do not show which volume used it.
func (a *Agent) VolumeIO(context.Context) ([]api.VolumeIO, error) {
	stats, err := iolimit.ReadStats()
	at := a.Clock.Now()
	if err != nil {
		return nil, err
	}
	var out []api.VolumeIO
	for _, id := range a.Uses.InUse() {
		d, ok := a.Cache.Dataset(id)
		if !ok {
			continue
		}
		pool, err := a.Pools.Get(d.Pool)
		if err != nil || !pool.Info().Capabilities.OwnDevice {
			continue
		}
		path := a.MountPath(id)
		if mounted, err := host.IsMountPoint(path); err != nil || !mounted {
			continue
		}
		dev, ok, err := iolimit.DeviceOf(path)
		if err != nil || !ok {
			continue
		}
		if s, ok := stats[iolimit.BlockDevice(dev)]; ok {
			out = append(out, api.VolumeIO{
				Dataset: id,
				Volume:  d.Volume,
				Node:    a.NodeName,
				At:      at,
				Read:    ioOf(s.Read),
				Write:   ioOf(s.Write),
			})
		}
	}
	slices.SortFunc(out, func(x, y api.VolumeIO) int { return cmp.Compare(x.Volume, y.Volume) })
	return out, nil
}

func ioOf(c iolimit.Counters) api.IO {
	return api.IO{Operations: c.Operations, Bytes: c.Bytes, Time: dataset.Duration(c.Time)}
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
	// Interval is how often the profile has the replica refreshed. It is 0 if the profile keeps no replicas.
	Interval time.Duration
	// MaxLoss is the maximum age at which the replica may take over automatically. If 0, it never takes over
	// automatically.
	MaxLoss time.Duration
}
