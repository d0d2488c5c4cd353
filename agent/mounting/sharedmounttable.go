package mounting

import (
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Named returns the dataset with a name or an alias. It returns no dataset that must not get further users here,
// because another dataset may have the name now.
func (m *SharedMounts) Named(name string) (dataset.Dataset, bool) {
	for id, r := range m.All() {
		if r.HasName(name) && r.State == dataset.StateReady && m.Refusal(id) == "" {
			return r.Dataset, true
		}
	}
	return dataset.Dataset{}, false
}

// IDs returns the datasets with a shared mount.
func (m *SharedMounts) IDs() []uuid.UUID {
	return slices.Collect(maps.Keys(m.All()))
}

// Refusal returns why a mounted dataset must not get further users here, or "" if it may.
func (m *SharedMounts) Refusal(id uuid.UUID) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.refused[id]
}

// MayOpen fails with ErrConflict if a dataset that is mounted here must not get further users.
func (m *SharedMounts) MayOpen(d dataset.Dataset) error {
	if why := m.Refusal(d.ID); why != "" {
		return dataset.Errorf(dataset.ErrConflict,
			"volume %s is mounted here, and %s (stop its containers here first)", d.Volume, why)
	}
	return nil
}

// Refuse records why a mounted dataset must not get further users here. first reports whether it was not refused
// before. If why is nil, the refusal ends: the dataset may get further users, or is not mounted.
func (m *SharedMounts) Refuse(id uuid.UUID, why error) (first bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, was := m.refused[id]
	if why == nil {
		delete(m.refused, id)
		return false
	}
	m.refused[id] = dataset.OneLine(why)
	return !was
}

// NeedsSharedMount reports whether this node can mount a dataset only through a shared mount: its access is many, and
// its home is another node.
func (m *SharedMounts) NeedsSharedMount(d dataset.Dataset) bool {
	if now, home := m.Cache.Dataset(d.ID); home {
		d = now
	}
	return d.Home != m.NodeID && d.Profile.Access == dataset.AccessMany
}

// RecordOf returns this node's record of a dataset: as its home, as the holder of a copy, or through a shared mount.
func (m *SharedMounts) RecordOf(id uuid.UUID) (dataset.Dataset, bool) {
	if d, known := m.Cache.DatasetOrCopy(id); known {
		return d, true
	}
	g, shared := m.Get(id)
	return g.Dataset, shared
}
