package loop

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest/formats"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
)

// A pool of a later format is refused by its number, whatever its other keys are, also if the pool is open. Its marker
// stays unchanged.
func TestB16PoolOfALaterFormat(t *testing.T) {
	f := newFixture(t, "xfs")
	path := filepath.Join(f.disk, "pool")
	marker := filepath.Join(path, shelf.MarkerFile)
	const later = `{"format":2,"backend":"loop","id":{"new":1},"layout":["xfs"]}`
	f.must(os.WriteFile(marker, []byte(later), 0o600))
	_, err := f.List(t.Context())
	f.isKind(err, dataset.ErrUnsupported)
	f.isKind(f.Raise(7), dataset.ErrUnsupported)
	for _, make := range []bool{false, true} {
		b, _ := newBackend()
		_, err := b.Open(t.Context(), backends.Config{ID: uuid.New(), Name: "test", Path: path, Make: make})
		f.isKind(err, dataset.ErrUnsupported)
	}
	if raw, err := os.ReadFile(marker); err != nil || string(raw) != later {
		t.Errorf("the marker is %q, %v; want %q", raw, err, later)
	}
	f.must(os.WriteFile(marker, []byte(`{"backend":"loop","id":"`+f.ID().String()+`","layout":"xfs"}`), 0o600))
	if _, err := f.List(t.Context()); err != nil {
		t.Errorf("a marker without a format: %v", err)
	}
}

// A dataset whose record has a later format is left alone.
func TestB16RecordOfALaterFormat(t *testing.T) {
	onPools(t, func(f *fixture) {
		formats.LaterRecord(t, f.Pool, func(commit bool) uuid.UUID {
			d := newDataset(ext4)
			if _, err := f.Create(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			if commit {
				f.must(f.Commit(t.Context(), d.ID))
			}
			return d.ID
		}, func(area string, id uuid.UUID) string {
			return filepath.Join(f.disk, "pool", area, id.String(), shelf.RecordFile)
		})
	})
}
