package mounting

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// SharedMount is the record of a dataset of access many that this node mounts although its home is another node.
// Control has the same record as a dataset.SharedMount.
type SharedMount struct {
	api.IndexedDataset
	// MountID is the ID of this shared mount, so that a late report does not apply to the next one.
	MountID uuid.UUID `json:"stay"`
}

// SharedMountTable has the shared mounts of this node, in memory and on disk, and the mounted datasets that must not
// get further users here: see Refuse. Its methods are safe for concurrent use.
type SharedMountTable struct {
	*host.Host

	mu      sync.Mutex
	mounts  map[uuid.UUID]SharedMount
	refused map[uuid.UUID]string // mounted datasets that must not get further users here, and why
}

// NewSharedMountTable returns an empty table.
func NewSharedMountTable(h *host.Host) *SharedMountTable {
	return &SharedMountTable{Host: h, mounts: map[uuid.UUID]SharedMount{}, refused: map[uuid.UUID]string{}}
}

// Load reads the shared mounts from disk.
func (t *SharedMountTable) Load(ctx context.Context) error {
	return t.DB.Each(ctx, "guests/", func(_ string, v []byte) error {
		var r SharedMount
		err := dataset.DecodeRecord(v, &r)
		if err == nil {
			t.mounts[r.ID] = r
		}
		return err
	})
}

// Get returns the shared mount of a dataset.
func (t *SharedMountTable) Get(id uuid.UUID) (SharedMount, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, is := t.mounts[id]
	return r, is
}

// Named returns the dataset with a name or an alias. It returns no dataset that must not get further users here,
// because another dataset may have the name now.
func (t *SharedMountTable) Named(name string) (dataset.Dataset, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.mounts {
		if _, refused := t.refused[r.ID]; r.HasName(name) && r.State == dataset.StateReady && !refused {
			return r.Dataset, true
		}
	}
	return dataset.Dataset{}, false
}

// IDs returns the datasets with a shared mount.
func (t *SharedMountTable) IDs() []uuid.UUID {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.mounts))
}

// Refusal returns why a mounted dataset must not get further users here, or "" if it may.
func (t *SharedMountTable) Refusal(id uuid.UUID) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refused[id]
}

// MayOpen fails with ErrConflict if a dataset that is mounted here must not get further users.
func (t *SharedMountTable) MayOpen(d dataset.Dataset) error {
	if why := t.Refusal(d.ID); why != "" {
		return dataset.Errorf(dataset.ErrConflict,
			"volume %s is mounted here, and %s (stop its containers here first)", d.Volume, why)
	}
	return nil
}

// Refuse records why a mounted dataset must not get further users here. first reports whether it was not refused
// before. If why is nil, the refusal ends: the dataset may get further users, or is not mounted.
func (t *SharedMountTable) Refuse(id uuid.UUID, why error) (first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, was := t.refused[id]
	if why == nil {
		delete(t.refused, id)
		return false
	}
	t.refused[id] = dataset.OneLine(why)
	return !was
}

// Set writes a shared mount to disk, and then to memory.
func (t *SharedMountTable) Set(ctx context.Context, r SharedMount) error {
	if err := t.DB.Put(ctx, map[string]any{"guests/" + r.ID.String(): r}); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mounts[r.ID] = r
	return nil
}

// Drop removes the shared mount of a dataset. Idempotent.
func (t *SharedMountTable) Drop(ctx context.Context, id uuid.UUID) error {
	if _, shared := t.Get(id); !shared {
		return nil
	}
	if err := t.DB.Put(ctx, map[string]any{"guests/" + id.String(): nil}); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.mounts, id)
	return nil
}

// NeedsSharedMount reports whether this node can mount a dataset only through a shared mount: its access is many, and
// its home is another node.
func (t *SharedMountTable) NeedsSharedMount(d dataset.Dataset) bool {
	if now, home := t.Cache.Dataset(d.ID); home {
		d = now
	}
	return d.Home != t.NodeID && d.Profile.Access == dataset.AccessMany
}

// RecordOf returns this node's record of a dataset: as its home, as the holder of a copy, or through a shared mount.
func (t *SharedMountTable) RecordOf(id uuid.UUID) (dataset.Dataset, bool) {
	if d, known := t.Cache.DatasetOrCopy(id); known {
		return d, true
	}
	g, shared := t.Get(id)
	return g.Dataset, shared
}
