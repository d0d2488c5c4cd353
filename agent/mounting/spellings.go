package mounting

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/plugin"
)

// Spellings records how the tools of this host spell a volume. An engine knows a volume by the string of its Create
// request, such as db@gold, and must find the volume by that string. Its methods are safe for concurrent use.
type Spellings struct {
	*host.Host
	mu sync.Mutex // held while spellings are read, written and applied
}

// Record records on disk how this engine spells a volume, unless the volume's own record has it.
func (s *Spellings) Record(ctx context.Context, d dataset.Dataset, ref dataset.Reference) error {
	return s.Save(d, ref, plugin.ToolOf(ctx), func(more map[string]any) error {
		if more == nil {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return s.DB.Put(ctx, more)
	})
}

// Save records that a tool has used a spelling. It passes the values of that record to save, which writes them to disk.
// If the use is recorded already, there are no values.
func (s *Spellings) Save(d dataset.Dataset, ref dataset.Reference, tool plugin.Tool,
	save func(more map[string]any) error) error {
	if s.isRecorded(d, ref.Spelling, tool) {
		return save(nil)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isRecorded(d, ref.Spelling, tool) {
		return save(nil)
	}
	r := records.Spellings{
		Dataset: d.ID, Used: s.Used(d), Podman: tool == plugin.Podman || s.Cache.UsedByPodman(d),
	}
	r.Used = append(slices.DeleteFunc(r.Used, func(sp string) bool { return sp == ref.Spelling }), ref.Spelling)
	return s.replaceLocked(map[string]records.Spellings{d.Volume: r}, s.otherNames(d), save)
}

// Load reads the spellings from disk. It is called once, after the cache was loaded and before the other methods.
func (s *Spellings) Load(ctx context.Context) error {
	obsolete := map[string]any{}
	err := s.DB.Each(ctx, "spellings/", func(name string, v []byte) error {
		var r records.Spellings
		if err := dataset.DecodeRecord(v, &r); err != nil {
			return err
		}
		if _, isHome := s.Cache.Dataset(r.Dataset); !isHome && r.IsObsolete(s.Clock.Now()) {
			obsolete["spellings/"+name] = nil
			return nil
		}
		s.Cache.SetSpellings(name, r)
		return nil
	})
	if err != nil {
		return err
	}
	return s.DB.PutAll(ctx, obsolete)
}

// Forget forgets how the engine spelled a dataset that was destroyed, first on disk and then in memory. Idempotent.
func (s *Spellings) Forget(ctx context.Context, id uuid.UUID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	obsolete := map[string]any{}
	for name := range s.Cache.RecordedSpellings(id) {
		obsolete["spellings/"+name] = nil
	}
	if err := s.DB.PutAll(context.WithoutCancel(ctx), obsolete); err != nil {
		return err
	}
	s.Cache.ForgetSpellings(id)
	return nil
}

// MarkDeleted records that a volume was deleted. docker volume ls does not list its spellings any more.
func (s *Spellings) MarkDeleted(ctx context.Context, id uuid.UUID) error {
	return s.setDeleted(ctx, id, s.Clock.Now())
}

// Restored records that a volume exists again, after MarkDeleted. It is idempotent, and writes nothing in most cases.
func (s *Spellings) Restored(ctx context.Context, d dataset.Dataset) error {
	return s.setDeleted(ctx, d.ID, time.Time{})
}

func (s *Spellings) setDeleted(ctx context.Context, id uuid.UUID, at time.Time) error {
	needsChange := func(r records.Spellings) bool { return r.Deleted.IsZero() != at.IsZero() }
	if now := s.Cache.RecordedSpellings(id); !slices.ContainsFunc(slices.Collect(maps.Values(now)), needsChange) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := map[string]records.Spellings{}
	for name, r := range s.Cache.RecordedSpellings(id) {
		if needsChange(r) {
			r.Deleted = at
			changed[name] = r
		}
	}
	return s.replaceLocked(changed, nil, s.write(ctx))
}

// FollowNames records the spellings of a volume under its name, without those whose name the volume does not have any
// more, or that the volume was deleted. Call it after a change of the names or of the state. It is idempotent, and
// writes nothing in most cases.
func (s *Spellings) FollowNames(ctx context.Context, d dataset.Dataset) error {
	if d.State != dataset.StateReady {
		return s.MarkDeleted(ctx, d.ID)
	}
	if err := s.Restored(ctx, d); err != nil || s.followsNames(d) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.followsNames(d) {
		return nil
	}
	r := records.Spellings{Dataset: d.ID, Used: s.Used(d), Podman: s.Cache.UsedByPodman(d)}
	return s.replaceLocked(map[string]records.Spellings{d.Volume: r}, s.otherNames(d), s.write(ctx))
}

func (s *Spellings) followsNames(d dataset.Dataset) bool {
	for name, r := range s.Cache.RecordedSpellings(d.ID) {
		isOther := func(spelling string) bool { return !records.IsSpellingOf(d, spelling) }
		if name != d.Volume || slices.ContainsFunc(r.Used, isOther) {
			return false
		}
	}
	return true
}

// otherNames returns the names under which spellings of a dataset are recorded, except its present one.
func (s *Spellings) otherNames(d dataset.Dataset) []string {
	names := s.Cache.RecordedSpellings(d.ID)
	delete(names, d.Volume)
	return slices.Collect(maps.Keys(names))
}

// write returns a function that writes values to disk, even if ctx ends.
func (s *Spellings) write(ctx context.Context) func(values map[string]any) error {
	return func(values map[string]any) error { return s.DB.Put(context.WithoutCancel(ctx), values) }
}

// replaceLocked writes records to disk, by save, and to memory, and removes those of the names in removed, as after a
// rename.
func (s *Spellings) replaceLocked(set map[string]records.Spellings, removed []string,
	save func(values map[string]any) error) error {
	values := map[string]any{}
	for name, r := range set {
		values["spellings/"+name] = r
	}
	for _, name := range removed {
		values["spellings/"+name] = nil
	}
	if err := save(values); err != nil {
		return err
	}
	for name, r := range set {
		s.Cache.SetSpellings(name, r)
	}
	for _, name := range removed {
		s.Cache.RemoveSpellings(name)
	}
	for _, r := range set {
		s.News.Changed(r.Dataset) // the aliases that the engine uses are reported
	}
	return nil
}

// Used returns the spellings that this engine has used for a volume.
func (s *Spellings) Used(d dataset.Dataset) []string {
	return s.Cache.SpellingsOf(d, s.NodeID)
}

// isRecorded reports whether it is recorded that a tool has used a spelling of a volume, and none later.
func (s *Spellings) isRecorded(d dataset.Dataset, spelling string, tool plugin.Tool) bool {
	used := s.Used(d)
	return len(used) > 0 && used[len(used)-1] == spelling && (tool != plugin.Podman || s.Cache.UsedByPodman(d))
}

// CheckRemovable fails with ErrInUse if an engine must not remove a volume: Podman has not used the volume on this
// node, or the engine knows the volume only by other spellings than that of ref.
//
// After "podman volume reload", Podman lists every volume of this node, and "podman volume prune" then removes every
// volume that no container of Podman uses. That would include the volumes of a Docker engine's stopped containers,
// and volumes that only drover or other nodes have used. So Podman may remove only the volumes that it has made or
// mounted itself.
func (s *Spellings) CheckRemovable(ctx context.Context, d dataset.Dataset, ref dataset.Reference) error {
	tool, used := plugin.ToolOf(ctx), s.Used(d)
	if !slices.Contains(used, ref.Spelling) {
		used = s.neededOf(ctx, d, used)
	}
	switch {
	case tool == plugin.Podman && !s.Cache.UsedByPodman(d):
		return dataset.Errorf(dataset.ErrInUse,
			"volume %s was never used by podman on node %s, and others may need it (drover volume inspect %s)",
			d.Volume, s.NodeName, d.Volume)
	case len(used) > 0 && !slices.Contains(used, ref.Spelling):
		return dataset.Errorf(dataset.ErrInUse,
			"volume %s has the name %s in this engine, and a container may need it: docker volume rm %s",
			d.Volume, strings.Join(used, " and "), strings.Join(used, " "))
	}
	return nil
}

// neededOf returns those of some spellings by which a container of the calling engine may need a volume.
func (s *Spellings) neededOf(ctx context.Context, d dataset.Dataset, spellings []string) []string {
	if len(spellings) == 0 {
		return nil
	}
	needed := s.Needed(ctx)
	return slices.DeleteFunc(slices.Clone(spellings), func(sp string) bool { return !needed(d, sp) })
}

// Remove removes a spelling of a volume. If the volume must be deleted instead, Remove keeps the spelling and returns
// false: no container of the engine may need the volume by another spelling, and this one has the name of the volume
// and not an alias. A removal by an alias never deletes the data. If the last spelling was an alias, an empty list is
// recorded, so that docker volume ls shows the volume by its name.
func (s *Spellings) Remove(
	ctx context.Context, d dataset.Dataset, ref dataset.Reference,
) (removed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tool, used := plugin.ToolOf(ctx), s.Used(d)
	rest := slices.DeleteFunc(slices.Clone(used), func(s string) bool { return s == ref.Spelling })
	switch {
	case ref.Name == d.Volume && len(s.neededOf(ctx, d, rest)) == 0:
		return false, nil
	case len(rest) == len(used):
		return true, nil
	}
	r := records.Spellings{Dataset: d.ID, Used: rest, Podman: tool != plugin.Podman && s.Cache.UsedByPodman(d)}
	return true, s.replaceLocked(map[string]records.Spellings{d.Volume: r}, s.otherNames(d), s.write(ctx))
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
func (m *Mounts) updateSpellings(ctx context.Context, name string, before []records.Spellings) (err error) {
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
