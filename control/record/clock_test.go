package record

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/internal/clock"
)

// lanesOnly is a store whose lanes can be read only when the test allows it. Nothing else can be read.
type lanesOnly struct {
	store.Store
	reads   int
	let     chan struct{}
	entries []store.Entry
}

func (l *lanesOnly) List(context.Context, string, string, int) ([]store.Entry, error) {
	l.reads++
	entries := l.entries
	<-l.let
	return entries, nil
}

// Callers that ask for the clock while it is being read share the next reading. They never share one that began
// before their call, because the store may be restored from a backup at any moment.
func TestTheClockIsReadOnceForMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &lanesOnly{let: make(chan struct{}), entries: []store.Entry{{Key: RevPrefix + "a/0", Value: []byte(`{"count":7}`)}}}
		s := NewLedger(st, clock.System{}, false, nil)
		var all sync.WaitGroup
		ask := func(want uint64) {
			all.Go(func() {
				if got, err := s.ReadClock(t.Context()); got != want || err != nil {
					t.Errorf("%d, %v, want %d", got, err, want)
				}
			})
		}
		ask(7)
		synctest.Wait()
		st.entries = []store.Entry{{Key: RevPrefix + "a/0", Value: []byte(`{"count":8}`)}}
		for range 100 {
			ask(8)
		}
		synctest.Wait()
		left, leave := context.WithCancel(t.Context())
		all.Go(func() {
			if _, err := s.ReadClock(left); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		leave()
		synctest.Wait()
		st.let <- struct{}{}
		st.let <- struct{}{}
		all.Wait()
		if st.reads != 2 {
			t.Errorf("read %d times", st.reads)
		}
	})
}
