package operation

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/dataset"
)

// FinderDeps is what Finder needs of other components.
type FinderDeps struct {
	*host.Host
	Spellings *Spellings
	// SharedMountNamed returns the volume of a name if its home is another node and this node has it mounted.
	SharedMountNamed func(name string) (dataset.Dataset, bool)
	// MountedAs returns the volume that an engine of this host has mounted by a spelling. The volume may be in the
	// trash.
	MountedAs func(spelling string) (dataset.Dataset, bool)
}

// Finder finds the volume that a tool of this host names. It has no state.
type Finder struct {
	deps FinderDeps
}

// NewFinder returns a Finder.
func NewFinder(deps FinderDeps) *Finder { return &Finder{deps} }

// Find returns the volume to which this engine refers. If this node is the home of the volume, or has mounted it, Find
// answers from memory. Otherwise it asks control. It returns ErrNotFound only in three cases: the reference
// is not a valid spelling, control knows no volume of the name, or the reference asks for another profile or another
// source than the volume has. In the third case it also returns the volume. If control does not answer, it returns
// another error.
func (f *Finder) Find(ctx context.Context, ref dataset.Reference) (dataset.Dataset, error) {
	if ref.Err != nil {
		return dataset.Dataset{}, dataset.Errorf(dataset.ErrNotFound, "no such volume: %w", ref.Err)
	}
	d, known := f.deps.Cache.Volume(ref.Name)
	if !known {
		d, known = f.deps.SharedMountNamed(ref.Name)
	}
	if !known {
		before := f.deps.Cache.SpelledWithName(ref.Name)
		v, err := f.deps.Control.Volume(ctx, ref.Name)
		if errors.Is(err, dataset.ErrNotFound) {
			return dataset.Dataset{}, errors.Join(err, f.updateSpellings(ctx, ref.Name, before))
		}
		if err != nil {
			return dataset.Dataset{}, err
		}
		if !v.HasName(ref.Name) { // control also accepts prefixes of UUIDs, but an engine uses names
			return dataset.Dataset{}, dataset.Errorf(dataset.ErrNotFound, "no such volume: %s", ref.Name)
		}
		d = v.Dataset
	}
	if slices.Contains(f.deps.Spellings.Used(d), ref.Spelling) {
		return d, f.deps.Spellings.Restored(ctx, d)
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
func (f *Finder) FindOrMounted(ctx context.Context, ref dataset.Reference) (dataset.Dataset, error) {
	d, err := f.Find(ctx, ref)
	if err == nil {
		return d, nil
	}
	if mounted, ok := f.deps.MountedAs(ref.Spelling); ok {
		return mounted, nil
	}
	return d, err
}

// usedAs returns the volume of another node for which this engine has used a spelling, as far as this node knows: the
// volume can have been deleted or renamed meanwhile.
func (f *Finder) usedAs(ref dataset.Reference) (id uuid.UUID, used bool) {
	for _, r := range f.deps.Cache.SpelledWithName(ref.Name) {
		if r.Deleted.IsZero() && slices.Contains(r.Used, ref.Spelling) {
			return r.Dataset, true
		}
	}
	return uuid.Nil, false
}

// updateSpellings updates the records of volumes that had a name which control does not know any more. If all
// spellings of such a record have the name, the volume was deleted. Otherwise the name may also be an alias that was
// dropped.
func (f *Finder) updateSpellings(ctx context.Context, name string, before []records.Spellings) (err error) {
	for _, r := range before {
		if !r.Deleted.IsZero() {
			continue
		}
		now := dataset.Dataset{ID: r.Dataset}
		if r.HasOtherName(name) {
			v, lookupErr := f.deps.Control.Volume(ctx, r.Dataset.String())
			if lookupErr != nil && !errors.Is(lookupErr, dataset.ErrNotFound) {
				err = errors.Join(err, lookupErr)
				continue
			}
			now.State, now.Volume, now.Aliases = v.State, v.Volume, v.Aliases
		}
		err = errors.Join(err, f.deps.Spellings.FollowNames(ctx, now))
	}
	return err
}

func isCloneOf(d dataset.Dataset, prefix string) bool {
	return d.Origin != nil && (strings.HasPrefix(d.Origin.Snapshot.String(), prefix) && !d.Origin.Implicit ||
		strings.HasPrefix(d.Origin.Dataset.String(), prefix) && d.Origin.Implicit)
}
