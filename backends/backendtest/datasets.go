package backendtest

import (
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// Datasets makes and compares the datasets of a pool.
type Datasets struct {
	OpenPool
}

// Record returns the record of a new dataset of the pool.
func (f *Datasets) Record() dataset.Dataset {
	id := uuid.New()
	d := dataset.Dataset{
		ID: id, Volume: "db-" + id.String()[:8], RequestedAs: "db@gold", State: dataset.StateReady,
		Profile: dataset.Profile{
			Name:     "gold",
			Revision: "0123456789ab",
			Quiesce:  dataset.QuiesceFreeze,
			OnDelete: dataset.OnDelete{Mode: dataset.DeletePurge},
		},
		Labels: map[string]string{"odd\n\"label": "välue"},
		Home:   uuid.New(), Pool: f.Pool.ID(), Epoch: 3, Request: uuid.New(),
		Created: time.Date(2026, 11, 20, 7, 42, 0, 123456789, time.UTC),
	}
	f.Seal(&d)
	return d
}

// NewSnapshot returns the record of a new snapshot of a dataset.
func (f *Datasets) NewSnapshot(d dataset.Dataset) dataset.Snapshot {
	return dataset.Snapshot{
		ID: uuid.New(), Dataset: d.ID, Volume: d.Volume, Name: "before", Kind: dataset.SnapshotManual,
		Size: d.Size, Profile: d.Profile, Epoch: d.Epoch, Created: d.Created, Request: uuid.New(),
	}
}

// Create makes a ready dataset.
func (f *Datasets) Create() dataset.Dataset {
	f.Helper()
	d := f.Record()
	size, err := f.Pool.Create(f.Ctx, d)
	f.OK(err)
	d.Size = size
	f.OK(f.Pool.Commit(f.Ctx, d.ID))
	return d
}

// TakeSnapshot takes a snapshot.
func (f *Datasets) TakeSnapshot(d dataset.Dataset) dataset.Snapshot {
	f.Helper()
	s := f.NewSnapshot(d)
	f.OK(f.Pool.Snapshot(f.Ctx, s, nil))
	return s
}

// Clone makes a ready clone.
func (f *Datasets) Clone(src dataset.Source) dataset.Dataset {
	f.Helper()
	d := f.Record()
	size, err := f.Pool.Clone(f.Ctx, d, src, nil)
	f.OK(err)
	d.Size = size
	f.OK(f.Pool.Commit(f.Ctx, d.ID))
	return d
}

// CheckAbsent fails if List or Stat shows any part of a dataset.
func (f *Datasets) CheckAbsent(id uuid.UUID) {
	f.Helper()
	_, err := f.Pool.Stat(f.Ctx, id)
	f.CheckFails(err, dataset.ErrNotFound)
	if e := f.Entries(id); len(e) > 0 {
		f.Errorf("the list contains %+v", e)
	}
}

// CheckSnapshots fails unless a dataset has exactly these snapshots, with their records.
func (f *Datasets) CheckSnapshots(id uuid.UUID, want ...dataset.Snapshot) {
	f.Helper()
	e, err := f.Pool.Stat(f.Ctx, id)
	f.OK(err)
	if e.Problem != "" {
		f.Errorf("problem: %s", e.Problem)
	}
	have := map[uuid.UUID]dataset.Snapshot{}
	for _, s := range e.Snapshots {
		have[s.ID] = s
	}
	wanted := map[uuid.UUID]dataset.Snapshot{}
	for _, s := range want {
		wanted[s.ID] = s
	}
	f.Same("the snapshots", have, wanted)
	if len(e.Snapshots) != len(want) {
		f.Errorf("%d snapshots, want %d", len(e.Snapshots), len(want))
	}
}

// CheckState fails unless a dataset has exactly one entry, in the given state and with its record.
func (f *Datasets) CheckState(d dataset.Dataset, state backends.EntryState) {
	f.Helper()
	one, err := f.Pool.Stat(f.Ctx, d.ID)
	f.OK(err)
	listed := f.Entries(d.ID)
	if len(listed) != 1 {
		f.Fatalf("the list contains %d entries, want 1: %+v", len(listed), listed)
	}
	f.Same("Stat and List", one, listed[0])
	if one.State != state || one.Problem != "" || one.Record == nil {
		f.Fatalf("the entry is %+v, want %s with its record", one, state)
	}
	// The backend chooses the size until the caller writes the record again.
	got := *one.Record
	got.Size = d.Size
	f.Same("the record", got, d)
	if !filepath.IsAbs(one.Path) {
		f.Errorf("path %q is not absolute", one.Path)
	}
}

// CheckUsedGrows fails unless Used reports the additional bytes, at once or within the declared lag.
func (f *Datasets) CheckUsedGrows(d dataset.Dataset, before, more dataset.Size) {
	f.Helper()
	const pause = 100 * time.Millisecond
	for left := f.Pool.Info().UsedLag; ; left -= pause {
		after, err := f.Pool.Used(f.Ctx, d.ID)
		f.OK(err)
		grew := after - before
		if grew >= more*95/100 && grew <= 3*more {
			return
		}
		if left <= 0 {
			f.Fatalf("%s more data raised the used space by %s (%d, then %d)", more.Human(), grew.Human(), before,
				after)
		}
		time.Sleep(pause)
	}
}

// Sized makes a ready dataset with a size. The returned record has the requested size.
func (f *Datasets) Sized(size dataset.Size) dataset.Dataset {
	f.Helper()
	d := f.Record()
	d.Size = size
	_, err := f.Pool.Create(f.Ctx, d)
	f.OK(err)
	f.OK(f.Pool.Commit(f.Ctx, d.ID))
	return d
}

// CheckReady fails unless the pool lists d as ready with the snapshots s.
func (f *Datasets) CheckReady(d dataset.Dataset, s ...dataset.Snapshot) {
	f.Helper()
	f.CheckState(d, backends.EntryReady)
	f.CheckSnapshots(d.ID, s...)
}

// Source returns a snapshot as a source.
func (f *Datasets) Source(s dataset.Snapshot) dataset.Source {
	return dataset.Source{Dataset: s.Dataset, Snapshot: s.ID}
}
