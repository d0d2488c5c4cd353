package controltest

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// Records is everything in a store, by kind, with what is derived from it.
type Records struct {
	Datasets   map[uuid.UUID]dataset.Dataset
	Snapshots  map[uuid.UUID]dataset.Snapshot
	Operations map[uuid.UUID]dataset.Operation
	leases     map[uuid.UUID]dataset.Lease
}

func read[T any](e *Control, key string, value []byte) T {
	e.Helper()
	var v T
	if err := record.Decode(key, value, &v); err != nil {
		e.Fatalf("%v", err)
	}
	return v
}

func indexDataset(want map[string]any, d dataset.Dataset) {
	want[record.UUIDKey(d.ID)] = record.UUIDPointer{Dataset: d.ID}
	if d.Home != uuid.Nil {
		want[record.HomeKey(d.Home, d.ID)] = record.Claim{ID: d.ID}
	}
	for _, n := range d.Copies {
		want[record.CopyKey(n, d.ID)] = record.CopyKey(n, d.ID)
	}
	for _, g := range d.Guests {
		want[record.GuestKey(g.Node, d.ID)] = record.Claim{ID: d.ID}
	}
	if d.Home != uuid.Nil || d.State != dataset.StatePurging {
		want[record.LeaseKey(d.ID)] = dataset.Lease{Dataset: d.ID, Node: d.Home, Epoch: d.Epoch, State: dataset.LeaseHeld}
	}
	switch d.State {
	case dataset.StateReady:
		want[record.NameKey(d.Volume)] = record.Claim{ID: d.ID}
	case dataset.StateTrashed:
		want[record.TrashKey(d.ID)] = *d.Trash
	}
}

func indexSnapshot(want map[string]any, s dataset.Snapshot) {
	want[record.UUIDKey(s.ID)] = record.UUIDPointer{Dataset: s.Dataset, Snapshot: true}
	if s.Name != "" {
		want[record.SnapshotNameKey(s.Dataset, s.Name)] = record.Claim{ID: s.ID}
	}
}
