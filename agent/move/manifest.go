package move

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
)

// Manifest takes the final snapshot of a relinquished dataset, and describes it. If nothing was written since the
// snapshot that was last sent to the target, that one is the final snapshot. For a move on a share, Manifest only
// flushes the dataset. If the files are sent one by one and the pool cannot take a snapshot without copying, Manifest
// reads the dataset itself. That is safe because nothing writes to a relinquished dataset.
func (v *TransferSource) Manifest(ctx context.Context, pool backends.Pool, d dataset.Dataset, y lease.Relinquished,
	seen io.Writer) (m dataset.Manifest, err error) {
	if y.Share {
		return v.flushOnShare(ctx, pool, d)
	}
	s, err := v.WithTimeAndSize(ctx, pool, v.TransferSnapshot(d, host.FinalSnapshotID(y.Move), y.Move))
	if err != nil {
		return m, err
	}
	if y.Files && !pool.Info().Capabilities.InstantSnapshot {
		m, err = v.manifestOfFiles(ctx, d.ID, uuid.Nil, seen)
		m.Taken, m.OrderTime = s.Created, s.OrderTime
		return m, err
	}
	if !y.Files {
		if m, all, err := v.lastSentManifest(ctx, pool, d, y.To); all || err != nil {
			return m, err
		}
	}
	if err := pool.Snapshot(ctx, s, nil); err != nil {
		return m, err
	}
	e, err := pool.Stat(ctx, d.ID)
	if err != nil {
		return m, err
	}
	i := host.IndexOf(e, s.ID)
	if i < 0 {
		return m, dataset.Errorf(dataset.ErrCorrupt, "pool %s does not list snapshot %s, which it took",
			v.Pools.Name(d.Pool), s.ID)
	}
	s = e.Snapshots[i] // the snapshot of an earlier attempt
	if y.Files {
		m, err = v.manifestOfFiles(ctx, d.ID, s.ID, seen)
		m.Snapshot, m.Taken, m.OrderTime = s.ID, s.Created, s.OrderTime
		return m, err
	}
	base, err := host.NearestBase(ctx, pool, e, s, v.Retention.Received(ctx, y.To, d.ID, e))
	if err != nil {
		return m, err
	}
	m, err = Sum(ctx, pool, s, base, seen)
	m.Taken = m.Taken.UTC()
	return m, err
}

// lastSentManifest returns the manifest of the snapshot that was last sent to the target, if nothing was written
// since then. That snapshot is then the final one. To take, compare, checksum and send another snapshot would be
// useless work.
func (v *TransferSource) lastSentManifest(ctx context.Context, pool backends.Pool, d dataset.Dataset,
	to uuid.UUID) (m dataset.Manifest, all bool, err error) {
	e, err := pool.Stat(ctx, d.ID)
	if err != nil {
		return m, false, err
	}
	last, current := host.LatestFor(ctx, pool, d, e, to)
	if !current {
		return m, false, nil
	}
	m, all = v.TransferServer.Sent(to, last)
	m.Taken = m.Taken.UTC()
	return m, all, nil
}

func (v *TransferSource) manifestOfFiles(ctx context.Context, ds, snapshot uuid.UUID,
	seen io.Writer) (m dataset.Manifest,
	err error) {
	root, release, err := v.OpenTree(ctx, ds, snapshot)
	if err != nil {
		return m, err
	}
	m, err = SumFiles(ctx, root, seen)
	return m, errors.Join(err, root.Close(), release())
}

// TransferSnapshot returns the record of a snapshot for another node.
func (v *TransferSource) TransferSnapshot(d dataset.Dataset, id, request uuid.UUID) dataset.Snapshot {
	return dataset.Snapshot{
		ID: id, Dataset: d.ID, Volume: d.Volume, Parent: d.HeadParent, Kind: dataset.SnapshotTransfer,
		Size: d.Size, Profile: d.Profile, Epoch: d.Epoch, Request: request,
	}
}

// flushOnShare flushes everything that was written to a dataset on its share, where the next home finds it.
func (v *TransferSource) flushOnShare(ctx context.Context, pool backends.Pool, d dataset.Dataset) (
	m dataset.Manifest, err error,
) {
	e, err := pool.Stat(ctx, d.ID)
	if err != nil {
		return m, err
	}
	dir, err := os.Open(e.Path)
	if err != nil {
		return m, err
	}
	defer dir.Close()
	m.Taken = v.Clock.Now().UTC()
	return m, fsctl.Sync(dir)
}
