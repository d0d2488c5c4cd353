package bolt

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/durable"
)

// The name of a store is flushed before anything is acknowledged. A store whose folder cannot be flushed is not
// opened, neither by the process that makes it nor by the next one.
func TestI2NewStoreIsNamedForGood(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	broken := errors.New("the disk is broken")
	var flushed []string
	syncDir = func(dir string) error {
		flushed = append(flushed, dir)
		return broken
	}
	t.Cleanup(func() { syncDir = durable.SyncDir })
	for range 2 {
		flushed = nil
		s, err := Open(t.Context(), path, Options{Clock: clock.System{}})
		if !errors.Is(err, broken) || !slices.Equal(flushed, []string{filepath.Dir(path)}) {
			t.Errorf("flushed %v, %v", flushed, err)
		}
		if err == nil {
			_ = s.Close()
		}
	}
}
