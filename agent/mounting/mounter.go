package mounting

import (
	"context"
	"slices"
	"time"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
)

// Mounter mounts volumes for containers, and unmounts them after their last use. It has no state. Its methods are safe
// for concurrent use.
type Mounter struct{ *Mounts }

// Unmount ends one use of a volume, and unmounts the volume if that was the last one. It succeeds for a volume or an ID
// that is not known here: the engine requires only that the volume is not mounted for it.
func (m *Mounter) Unmount(ctx context.Context, ref dataset.Reference, id string) error {
	if ref.Err != nil {
		return nil
	}
	d, here := m.findMounted(ref, id) // without control: this node knows its own mounts
	if !here {
		return nil
	}
	began := m.Clock.Steady()
	last, err := m.Verifier.EndUse(ctx, d, id)
	if err != nil || !last {
		return err
	}
	if id == PodmanID {
		m.unmountForPodman(ctx, d, began)
		return nil
	}
	_, err = m.Jobs.Do(ctx, "unmount/"+d.ID.String(), "unmount of volume "+d.Volume, m.unmountUnused(d))
	return err
}

// unmountUnused is a job that unmounts a dataset whose last use has ended.
func (m *Mounter) unmountUnused(d dataset.Dataset) func(context.Context, *host.Job) error {
	return func(ctx context.Context, jb *host.Job) error {
		jb.Step("flushing data to disk")
		if err := m.Unmounter.IfUnused(ctx, d, m.Unmounter.Unmount); err != nil {
			return err
		}
		m.SharedMounts.ReportUnmounted(ctx, d.ID)
		return nil
	}
}

// findMounted returns the dataset that has a use with a mount ID. It may differ from the dataset that has the name now:
// a rebuild may have renamed the dataset. If this node has no record of the dataset, the result has only its UUID and
// the name. If no dataset has such a use, findMounted returns the dataset with the name, if its home is this node.
func (m *Mounter) findMounted(ref dataset.Reference, id string) (dataset.Dataset, bool) {
	d, named := m.Cache.Volume(ref.Name)
	if named {
		if _, used := m.Uses.Get(d.ID).IDs[id]; used {
			return d, true
		}
	}
	for _, other := range m.Uses.InUse() {
		// The ID alone is not sufficient: it may be used for several volumes.
		if use, ok := m.Uses.Get(other).IDs[id]; ok && slices.Contains(use.Spellings(), ref.Spelling) {
			if renamed, known := m.SharedMounts.RecordOf(other); known {
				return renamed, true
			}
			return dataset.Dataset{ID: other, Volume: ref.Name}, true
		}
	}
	return d, named
}

// MountedAs returns the volume that an engine of this host has mounted by a spelling. The volume may not have that name
// any more: an alias that was dropped stays the name of the volume in the containers that run. The volume may also be
// in the trash, if an operator confirmed that this host was fenced and deleted the volume. If there are several,
// MountedAs returns the one that was mounted last.
func (m *Mounter) MountedAs(spelling string) (found dataset.Dataset, ok bool) {
	var last time.Time
	for _, id := range m.Uses.InUse() {
		for _, use := range m.Uses.Get(id).IDs {
			if ok && !use.Since.After(last) || !slices.Contains(use.Spellings(), spelling) {
				continue
			}
			if d, known := m.SharedMounts.RecordOf(id); known && d.State != dataset.StatePurging {
				found, ok, last = d, true, use.Since
			}
		}
	}
	return found, ok
}
