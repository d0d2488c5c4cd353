package backendtest

import (
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// datasets makes and compares the datasets of a pool.
type datasets struct {
	openPool
}

// record returns the record of a new dataset of the pool.
func (f *datasets) record() dataset.Dataset {
	id := uuid.New()
	d := dataset.Dataset{
		ID: id, Volume: "db-" + id.String()[:8], RequestedAs: "db@gold", State: dataset.StateReady,
		Profile: dataset.Profile{
			Name:     "gold",
			Revision: "0123456789ab",
			Quiesce:  dataset.QuiesceNone,
			OnDelete: dataset.OnDelete{Mode: dataset.DeletePurge},
		},
		Labels: map[string]string{"odd\n\"label": "välue"},
		Home:   uuid.New(), Pool: f.pool.ID(), Epoch: 3, Request: uuid.New(),
		Created: time.Date(2026, 11, 20, 7, 42, 0, 123456789, time.UTC),
	}
	f.seal(&d)
	return d
}

// snapshot returns the record of a new snapshot of a dataset.
func (f *datasets) snapshot(d dataset.Dataset) dataset.Snapshot {
	return dataset.Snapshot{
		ID: uuid.New(), Dataset: d.ID, Volume: d.Volume, Name: "before", Kind: dataset.SnapshotManual,
		Size: d.Size, Profile: d.Profile, Epoch: d.Epoch, Created: d.Created, Request: uuid.New(),
	}
}

// create makes a ready dataset.
func (f *datasets) create() dataset.Dataset {
	f.Helper()
	d := f.record()
	size, err := f.pool.Create(f.ctx, d)
	f.ok(err)
	d.Size = size
	f.ok(f.pool.Commit(f.ctx, d.ID))
	return d
}

// take takes a snapshot.
func (f *datasets) take(d dataset.Dataset) dataset.Snapshot {
	f.Helper()
	s := f.snapshot(d)
	f.ok(f.pool.Snapshot(f.ctx, s, nil))
	return s
}

// clone makes a ready clone.
func (f *datasets) clone(src dataset.Source) dataset.Dataset {
	f.Helper()
	d := f.record()
	size, err := f.pool.Clone(f.ctx, d, src, nil)
	f.ok(err)
	d.Size = size
	f.ok(f.pool.Commit(f.ctx, d.ID))
	return d
}

// absent fails if List or Stat shows any part of a dataset.
func (f *datasets) absent(id uuid.UUID) {
	f.Helper()
	_, err := f.pool.Stat(f.ctx, id)
	f.fails(err, dataset.ErrNotFound)
	if e := f.entries(id); len(e) > 0 {
		f.Errorf("the list contains %+v", e)
	}
}

// hasSnapshots fails unless a dataset has exactly these snapshots, with their records.
func (f *datasets) hasSnapshots(id uuid.UUID, want ...dataset.Snapshot) {
	f.Helper()
	e, err := f.pool.Stat(f.ctx, id)
	f.ok(err)
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
	f.same("the snapshots", have, wanted)
	if len(e.Snapshots) != len(want) {
		f.Errorf("%d snapshots, want %d", len(e.Snapshots), len(want))
	}
}

// inState fails unless a dataset has exactly one entry, in the given state and with its record.
func (f *datasets) inState(d dataset.Dataset, state backends.EntryState) {
	f.Helper()
	one, err := f.pool.Stat(f.ctx, d.ID)
	f.ok(err)
	listed := f.entries(d.ID)
	if len(listed) != 1 {
		f.Fatalf("the list contains %d entries, want 1: %+v", len(listed), listed)
	}
	f.same("Stat and List", one, listed[0])
	if one.State != state || one.Problem != "" || one.Record == nil {
		f.Fatalf("the entry is %+v, want %s with its record", one, state)
	}
	// The backend chooses the size until the caller writes the record again.
	got := *one.Record
	got.Size = d.Size
	f.same("the record", got, d)
	if !filepath.IsAbs(one.Path) {
		f.Errorf("path %q is not absolute", one.Path)
	}
}

// usedGrowsBy fails unless Used reports the additional bytes, at once or within the declared lag.
func (f *datasets) usedGrowsBy(d dataset.Dataset, before, more dataset.Size) {
	f.Helper()
	const pause = 100 * time.Millisecond
	for left := f.pool.Info().UsedLag; ; left -= pause {
		after, err := f.pool.Used(f.ctx, d.ID)
		f.ok(err)
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

// sized makes a ready dataset with a size.
func (f *datasets) sized(size dataset.Size) dataset.Dataset {
	f.Helper()
	d := f.record()
	d.Size = size
	_, err := f.pool.Create(f.ctx, d)
	f.ok(err)
	f.ok(f.pool.Commit(f.ctx, d.ID))
	return d
}

// resize resizes a dataset twice to the same size.
func (f *datasets) resize(d dataset.Dataset, size dataset.Size, m *mounted) {
	f.Helper()
	var root *os.File
	if m != nil {
		root = m.root
	}
	f.twice(func() error { return f.pool.(backends.Resizer).Resize(f.ctx, d.ID, size, root) })
}

func (f *datasets) inStateWith(d dataset.Dataset, s ...dataset.Snapshot) {
	f.Helper()
	f.inState(d, backends.EntryReady)
	f.hasSnapshots(d.ID, s...)
}

func (f *datasets) source(s dataset.Snapshot) dataset.Source {
	return dataset.Source{Dataset: s.Dataset, Snapshot: s.ID}
}
