package record_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
)

func TestEvents(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db@fleeting")
	a.MustSnapshot("db", "")
	e.Clock.Advance(time.Minute)
	a.MustDelete("db")
	read := func(after uint64) (types []string, last api.Event) {
		t.Helper()
		if err := e.Events(e.Ctx, after, false, func(ev api.Event) error {
			if ev.ID <= after && after < e.EventLog.Next {
				t.Errorf("event %d after %d", ev.ID, after)
			}
			types, last = append(types, string(ev.Type)), ev
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return types, last
	}
	all, last := read(0)
	if !cmp.Equal(all, []string{"volume.create", "snapshot.create", "volume.delete"}) || !last.Time.Equal(controltest.Start.Add(time.Minute)) || last.Volume != "db" {
		t.Errorf("%v, %+v", all, last)
	}
	if got, _ := read(last.ID - 1); len(got) != 1 {
		t.Errorf("%v", got)
	}
	if got, _ := read(last.ID); len(got) != 0 {
		t.Errorf("%v", got)
	}
	if got, _ := read(last.ID + 100); len(got) != 3 { // from a run with a later clock
		t.Errorf("%v", got)
	}
	stop := errors.New("enough")
	if err := e.Events(e.Ctx, 0, true, func(api.Event) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
	e.Restart()
	a.MustCreate("db2")
	if got, _ := read(last.ID); len(got) != 1 { // what a reader of the last run has not seen
		t.Errorf("after a restart: %v", got)
	}
	for range 3 * record.EventsKept {
		e.EventLog.Publish(api.Event{Type: "x"})
	}
	if got, _ := read(1); len(got) < record.EventsKept || len(got) > 2*record.EventsKept+1 {
		t.Errorf("%d events are kept", len(got))
	}
}

func TestEventsAreFollowed(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db0")
	ctx, cancel := context.WithCancel(e.Ctx)
	got := make(chan string)
	var all sync.WaitGroup
	ends := make([]error, 2)
	for i, ctx := range []context.Context{ctx, e.Ctx} {
		all.Go(func() {
			ends[i] = e.Events(ctx, 0, true, func(ev api.Event) error { got <- ev.Volume; return nil })
		})
	}
	for n := range 5 {
		for range 2 {
			if v := <-got; v != fmt.Sprint("db", n) {
				t.Errorf("event of %s", v)
			}
		}
		a.MustCreate(fmt.Sprint("db", n+1))
	}
	<-got
	<-got
	cancel()
	e.Service.Close()
	all.Wait()
	if !errors.Is(ends[0], context.Canceled) || ends[1] != nil {
		t.Errorf("%v", ends)
	}
}
