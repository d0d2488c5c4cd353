package control

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// A dataset of access many has one home, and other nodes of its share can mount it too. Each such mount is
// recorded in the dataset itself, as a shared mount, and every decision about the dataset checks that record. A
// decision that needs the dataset unused elsewhere (a delete, a move, a restore) is refused while there are shared
// mounts, and the error names their nodes. A shared mount is recorded before the mount and removed after the unmount,
// so no mount lacks a record.

// ReportSharedMount records the shared mount of a dataset on a node, or its end. If the home records a shared mount of
// its own dataset, it gets exclusive use of the dataset. Idempotent for the same ID.
//
// It fails with dataset.ErrUnsupported if the profile does not have access many, or if the node has no pool on the
// share. It fails with ErrPending while a move is in progress or while the home has exclusive use. If a home requests
// exclusive use while there are shared mounts, it fails with ErrInUse, and the error names their nodes. Like other
// reports, it can also fail with ErrNotFound, ErrOffline and ErrStale.
func (s *Service) ReportSharedMount(ctx context.Context, node uuid.UUID,
	g api.SharedMountReport) (out api.IndexedDataset, err error) {
	if g.ID == uuid.Nil {
		return out, dataset.Errorf(dataset.ErrInvalid, "record shared mount of dataset %s: missing ID", g.Dataset)
	}
	index, err := s.Ledger.Update(ctx, func(t *record.Tx) error {
		n, err := membership.FreshNode(t, node, g.Incarnation)
		if err != nil {
			return err
		}
		d, err := t.Dataset(g.Dataset)
		if g.Ended {
			out = api.IndexedDataset{}
			if dataset.KindOf(err) == dataset.ErrNotFound {
				return nil
			}
			if was, exists := d.SharedMountOf(node); err != nil || !exists || was.ID != g.ID {
				return err
			}
			record.RemoveSharedMount(t, &d, node)
			t.Event(api.EventVolumeSharedMount, d, "node "+n.Name+" no longer uses it")
			return t.PutDataset(d)
		}
		if err != nil {
			return err
		}
		out = api.IndexedDataset{Dataset: d, Index: t.Index(record.DatasetKey(d.ID))}
		if was, exists := d.SharedMountOf(node); exists && was.ID == g.ID && d.State == dataset.StateReady {
			return nil
		}
		if err := s.checkSharedMount(t, d, n, g.Mounted); err != nil {
			return err
		}
		if err := record.AddSharedMount(t, &d,
			dataset.SharedMount{Node: node, ID: g.ID, Since: s.Clock.Now()}); err != nil {
			return err
		}
		if node != d.Home {
			t.Event(api.EventVolumeSharedMount, d, "node "+n.Name+" uses it too")
		}
		out.Dataset = d
		return t.PutDataset(d)
	})
	if index != 0 {
		out.Index = index
	}
	return out, err
}

// checkSharedMount fails unless a node may get a shared mount of a dataset. For the home of the dataset, it fails
// unless the home may use the dataset exclusively. held is true if the node already has the dataset mounted. Then only
// the state and the profile of the dataset are checked, because a record must exist for that mount.
func (s *Service) checkSharedMount(t *record.Tx, d dataset.Dataset, n dataset.Node, held bool) error {
	what := "mount of volume " + d.Volume
	switch {
	case d.State != dataset.StateReady:
		return dataset.Errorf(dataset.ErrNotFound, "volume %s was deleted", d.Volume)
	case d.Profile.Access != dataset.AccessMany:
		return dataset.Errorf(dataset.ErrUnsupported,
			"%s: its profile %s allows only its home to mount it (access: many allows several hosts)", what,
			d.Profile.Name)
	case held:
		return nil
	}
	if err := t.Halted(); err != nil {
		return err
	}
	if n.ID == d.Home {
		return s.CheckNoSharedMounts(t, d, "get exclusive use of")
	}
	if d.Move != uuid.Nil {
		return dataset.PendingOn(d.Move,
			"%s: it is being moved (drover operation inspect --wait %s shows the progress)", what, d.Move.String()[:8])
	}
	if _, alone := d.SharedMountOf(d.Home); alone {
		home, err := t.NodeName(d.Home)
		if err != nil {
			return err
		}
		return dataset.Errorf(dataset.ErrPending,
			"%s: node %s has exclusive use of it for a snapshot, a clone, a restore or an export (drover operation ls)",
			what, home)
	}
	c, shared, why, err := s.Relocator.PoolOnShare(t, d, n)
	switch {
	case err != nil:
		return err
	case !shared:
		return dataset.Errorf(dataset.ErrUnsupported, "%s: it is not on a share", what)
	case c.ID == uuid.Nil:
		return dataset.Errorf(dataset.ErrUnsupported, "%s: %s", what, why)
	case why != "":
		return dataset.Errorf(dataset.ErrOffline, "%s: %s", what, why)
	case !c.Capabilities.ManyHosts:
		return dataset.Errorf(dataset.ErrUnsupported,
			"%s: pool %s of node %s cannot mount a volume on several hosts at once", what, c.Name, n.Name)
	}
	return nil
}
