package mounting

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/plugin"
)

// CheckRemovable fails with ErrInUse if an engine must not remove a volume: Podman has not used the volume on this
// node, or the engine knows the volume only by other spellings than that of ref.
//
// After "podman volume reload", Podman lists every volume of this node, and "podman volume prune" then removes every
// volume that no container of Podman uses. That would include the volumes of a Docker engine's stopped containers,
// and volumes that only drover or other nodes have used. So Podman may remove only the volumes that it has made or
// mounted itself.
func (m *Mounts) CheckRemovable(ctx context.Context, d dataset.Dataset, ref dataset.Reference) error {
	tool, used := plugin.ToolOf(ctx), m.Spellings.Used(d)
	if !slices.Contains(used, ref.Spelling) {
		used = m.neededOf(ctx, d, used)
	}
	switch {
	case tool == plugin.Podman && !m.Cache.UsedByPodman(d):
		return dataset.Errorf(dataset.ErrInUse,
			"volume %s was never used by podman on node %s, and others may need it (drover volume inspect %s)",
			d.Volume, m.NodeName, d.Volume)
	case len(used) > 0 && !slices.Contains(used, ref.Spelling):
		return dataset.Errorf(dataset.ErrInUse,
			"volume %s has the name %s in this engine, and a container may need it: docker volume rm %s",
			d.Volume, strings.Join(used, " and "), strings.Join(used, " "))
	}
	return nil
}

// neededOf returns those of some spellings by which a container of the calling engine may need a volume.
func (m *Mounts) neededOf(ctx context.Context, d dataset.Dataset, spellings []string) []string {
	if len(spellings) == 0 {
		return nil
	}
	needed := m.Needed(ctx)
	return slices.DeleteFunc(slices.Clone(spellings), func(sp string) bool { return !needed(d, sp) })
}

// RemoveSpelling removes a spelling of a volume: see host.Spellings.Remove.
func (m *Mounts) RemoveSpelling(ctx context.Context, d dataset.Dataset, ref dataset.Reference) (removed bool,
	err error) {
	return m.Spellings.Remove(ctx, d, ref, func(rest []string) bool { return len(m.neededOf(ctx, d, rest)) > 0 })
}

// Find returns the volume to which this engine refers. If this node is the home of the volume, or has mounted it, Find
// answers from memory. Otherwise it asks control. It returns ErrNotFound only in three cases: the reference
// is not a valid spelling, control knows no volume of the name, or the reference asks for another profile or another
// source than the volume has. In the third case it also returns the volume. If control does not answer, it returns
// another error.
func (m *Mounts) Find(ctx context.Context, ref dataset.Reference) (dataset.Dataset, error) {
	if ref.Err != nil {
		return dataset.Dataset{}, dataset.Errorf(dataset.ErrNotFound, "no such volume: %w", ref.Err)
	}
	d, known := m.Cache.Volume(ref.Name)
	if !known {
		d, known = m.SharedMounts.Named(ref.Name)
	}
	if !known {
		before := m.Cache.SpelledWithName(ref.Name)
		v, err := m.Control.Volume(ctx, ref.Name)
		if errors.Is(err, dataset.ErrNotFound) {
			return dataset.Dataset{}, errors.Join(err, m.updateSpellings(ctx, ref.Name, before))
		}
		if err != nil {
			return dataset.Dataset{}, err
		}
		if !v.HasName(ref.Name) { // control also accepts prefixes of UUIDs, but an engine uses names
			return dataset.Dataset{}, dataset.Errorf(dataset.ErrNotFound, "no such volume: %s", ref.Name)
		}
		d = v.Dataset
	}
	if slices.Contains(m.Spellings.Used(d), ref.Spelling) {
		return d, m.Spellings.Restored(ctx, d)
	}
	switch {
	case ref.Profile != "" && ref.Profile != d.Profile.Name:
		return d, dataset.Errorf(dataset.ErrNotFound, "volume %s has profile %s, not %s", d.Volume, d.Profile.Name,
			ref.Profile)
	case ref.From != "" && !isCloneOf(d, ref.From):
		return d, dataset.Errorf(dataset.ErrNotFound, "volume %s is not a clone of %s", d.Volume, ref.From)
	}
	return d, nil
}

// FindOrMounted is Find for requests that only look at a volume. If Find finds none, it returns the volume that this
// engine has mounted by the spelling. This matters after an alias was dropped: when the engine stops a container, it
// first asks for the volume by the name that it knows, and sends no Unmount if there is no such volume.
func (m *Mounts) FindOrMounted(ctx context.Context, ref dataset.Reference) (dataset.Dataset, error) {
	d, err := m.Find(ctx, ref)
	if err == nil {
		return d, nil
	}
	if mounted, ok := m.MountedAs(ref.Spelling); ok {
		return mounted, nil
	}
	return d, err
}

// UsedAs returns the volume of another node for which this engine has used a spelling, as far as this node knows: the
// volume can have been deleted or renamed meanwhile.
func (m *Mounts) UsedAs(ref dataset.Reference) (id uuid.UUID, used bool) {
	for _, r := range m.Cache.SpelledWithName(ref.Name) {
		if r.Deleted.IsZero() && slices.Contains(r.Used, ref.Spelling) {
			return r.Dataset, true
		}
	}
	return uuid.Nil, false
}

// updateSpellings updates the records of volumes that had a name which control does not know any more. If all
// spellings of such a record have the name, the volume was deleted. Otherwise the name may also be an alias that was
// dropped.
func (m *Mounts) updateSpellings(ctx context.Context, name string, before []host.SpellingRecord) (err error) {
	for _, r := range before {
		if !r.Deleted.IsZero() {
			continue
		}
		now := dataset.Dataset{ID: r.Dataset}
		if r.HasOtherName(name) {
			v, lookupErr := m.Control.Volume(ctx, r.Dataset.String())
			if lookupErr != nil && !errors.Is(lookupErr, dataset.ErrNotFound) {
				err = errors.Join(err, lookupErr)
				continue
			}
			now.State, now.Volume, now.Aliases = v.State, v.Volume, v.Aliases
		}
		err = errors.Join(err, m.Spellings.FollowNames(ctx, now))
	}
	return err
}

func isCloneOf(d dataset.Dataset, prefix string) bool {
	return d.Origin != nil && (strings.HasPrefix(d.Origin.Snapshot.String(), prefix) && !d.Origin.Implicit ||
		strings.HasPrefix(d.Origin.Dataset.String(), prefix) && d.Origin.Implicit)
}

// MountedAs returns the volume that an engine of this host has mounted by a spelling. The volume may not have that name
// any more: an alias that was dropped stays the name of the volume in the containers that run. The volume may also be
// in the trash, if an operator confirmed that this host was fenced and deleted the volume. If there are several,
// MountedAs returns the one that was mounted last.
func (m *Mounts) MountedAs(spelling string) (found dataset.Dataset, ok bool) {
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
