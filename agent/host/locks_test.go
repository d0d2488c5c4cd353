package host

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// A lock has one holder at a time, and an unused lock is removed.
func TestSet(t *testing.T) {
	var l Set
	ids := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
	inside, n := make([]int, len(ids)), make([]int, len(ids))
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			k := i % len(ids)
			unlock, err := l.Lock(t.Context(), ids[k], "count")
			if err != nil {
				t.Error(err)
				return
			}
			if inside[k]++; inside[k] != 1 {
				t.Errorf("%d at once", inside[k])
			}
			n[k]++
			inside[k]--
			unlock()
		})
	}
	wg.Wait()
	if n[0] != 100 || n[1] != 100 || n[2] != 100 || len(l.all) != 0 {
		t.Errorf("counted %v; %d unused locks were not removed", n, len(l.all))
	}
}

// The error of a wait that ends describes the holder's work, and the lock can still be taken. A lock that is
// free is taken even if the context has ended.
func TestLockCancelled(t *testing.T) {
	var l Set
	id := uuid.New()
	unlock, err := l.Lock(t.Context(), id, "restore of volume db")
	require.NoError(t, err)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = l.Lock(gone, id, "mount of volume db")
	if !errors.Is(err, dataset.ErrPending) || !strings.Contains(err.Error(), "mount of volume db") || !strings.Contains(err.Error(), "restore of volume db") {
		t.Errorf("got %v", err)
	}
	unlock()
	if len(l.all) != 0 {
		t.Errorf("%d unused locks were not removed", len(l.all))
	}
	again, err := l.Lock(gone, id, "mount of volume db")
	require.NoError(t, err)
	again()
}
