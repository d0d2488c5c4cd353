package operation

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/dataset"
)

// Find returns the volume to which this engine refers. If this node is the home of the volume, or has mounted it, Find
// answers from memory. Otherwise it asks control. It returns ErrNotFound only in three cases: the reference
// is not a valid spelling, control knows no volume of the name, or the reference asks for another profile or another
// source than the volume has. In the third case it also returns the volume. If control does not answer, it returns
// another error.
func (o *Operations) Find(ctx context.Context, ref dataset.Reference) (dataset.Dataset, error) {
	if ref.Err != nil {
		return dataset.Dataset{}, dataset.Errorf(dataset.ErrNotFound, "no such volume: %w", ref.Err)
	}
	d, known := o.Cache.Volume(ref.Name)
	if !known {
		d, known = o.SharedMounts.Named(ref.Name)
	}
	if !known {
		before := o.Cache.SpelledWithName(ref.Name)
		v, err := o.Control.Volume(ctx, ref.Name)
		if errors.Is(err, dataset.ErrNotFound) {
			return dataset.Dataset{}, errors.Join(err, o.updateSpellings(ctx, ref.Name, before))
		}
		if err != nil {
			return dataset.Dataset{}, err
		}
		if !v.HasName(ref.Name) { // control also accepts prefixes of UUIDs, but an engine uses names
			return dataset.Dataset{}, dataset.Errorf(dataset.ErrNotFound, "no such volume: %s", ref.Name)
		}
		d = v.Dataset
	}
	if slices.Contains(o.Spellings.Used(d), ref.Spelling) {
		return d, o.Spellings.Restored(ctx, d)
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
func (o *Operations) FindOrMounted(ctx context.Context, ref dataset.Reference) (dataset.Dataset, error) {
	d, err := o.Find(ctx, ref)
	if err == nil {
		return d, nil
	}
	if mounted, ok := o.Mounter.MountedAs(ref.Spelling); ok {
		return mounted, nil
	}
	return d, err
}

// usedAs returns the volume of another node for which this engine has used a spelling, as far as this node knows: the
// volume can have been deleted or renamed meanwhile.
func (o *Operations) usedAs(ref dataset.Reference) (id uuid.UUID, used bool) {
	for _, r := range o.Cache.SpelledWithName(ref.Name) {
		if r.Deleted.IsZero() && slices.Contains(r.Used, ref.Spelling) {
			return r.Dataset, true
		}
	}
	return uuid.Nil, false
}

// updateSpellings updates the records of volumes that had a name which control does not know any more. If all
// spellings of such a record have the name, the volume was deleted. Otherwise the name may also be an alias that was
// dropped.
func (o *Operations) updateSpellings(ctx context.Context, name string, before []records.Spellings) (err error) {
	for _, r := range before {
		if !r.Deleted.IsZero() {
			continue
		}
		now := dataset.Dataset{ID: r.Dataset}
		if r.HasOtherName(name) {
			v, lookupErr := o.Control.Volume(ctx, r.Dataset.String())
			if lookupErr != nil && !errors.Is(lookupErr, dataset.ErrNotFound) {
				err = errors.Join(err, lookupErr)
				continue
			}
			now.State, now.Volume, now.Aliases = v.State, v.Volume, v.Aliases
		}
		err = errors.Join(err, o.Spellings.FollowNames(ctx, now))
	}
	return err
}

func isCloneOf(d dataset.Dataset, prefix string) bool {
	return d.Origin != nil && (strings.HasPrefix(d.Origin.Snapshot.String(), prefix) && !d.Origin.Implicit ||
		strings.HasPrefix(d.Origin.Dataset.String(), prefix) && d.Origin.Implicit)
}
