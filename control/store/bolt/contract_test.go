package bolt_test

import (
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/control/store/storetest"
	"github.com/droverhq/drover/internal/clock"
)

func TestMain(m *testing.M) {
	if child() {
		return
	}
	goleak.VerifyTestMain(m)
}

// timed is a store whose session time is controlled by the test suite.
type timed struct {
	*bolt.Store
	*clock.Fake
}

var _ storetest.Advancer = timed{}

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		fake := clock.NewFake(time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC))
		s, err := bolt.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), bolt.Options{Clock: fake})
		if err != nil {
			t.Fatal(err)
		}
		return timed{s, fake}
	})
}
