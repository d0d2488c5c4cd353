package mounting_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
)

// slowWord is a connection to control that delays the report of a mount once it is armed: the request, or its answer.
type slowWord struct {
	api.Service
	arm       chan bool // true: delay the answer
	asked, on chan struct{}
}

func (c slowWord) ReportSharedMount(ctx context.Context, node uuid.UUID, s api.SharedMountReport) (out api.IndexedDataset, err error) {
	held, answer := false, false
	if s.Mounted {
		select {
		case answer = <-c.arm:
			held = true
		default:
		}
	}
	if answer {
		out, err = c.Service.ReportSharedMount(ctx, node, s)
	}
	if held {
		c.asked <- struct{}{}
		<-c.on
	}
	if !answer {
		out, err = c.Service.ReportSharedMount(ctx, node, s)
	}
	return out, err
}

// A guest can mount and unmount the volume while control is asked about its mount. If the report or its answer
// arrives after the unmount or after the next mount, the record is corrected.
func TestGuestMountsWhileControlAnswers(t *testing.T) {
	f, d := many(t)
	f.B.Stop()
	slow := slowWord{f.B.Config.Control, make(chan bool, 1), make(chan struct{}), make(chan struct{})}
	f.B.Config.Control = slow
	f.B.Start()
	for _, c := range []struct{ again, answer bool }{{false, false}, {true, false}, {true, true}} {
		f.B.MustMount("db", "one")
		slow.arm <- c.answer
		done := make(chan error, 1)
		go func() { done <- f.B.SharedMounts.Reconcile(t.Context(), d.ID, uuid.Nil) }()
		<-slow.asked
		soon, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if _, err := f.B.Mount(soon, "db", "two"); err != nil {
			t.Errorf("mount: %v", err)
		}
		for _, id := range []string{"one", "two"} {
			if err := f.B.Unmount(soon, "db", id); err != nil {
				t.Errorf("unmount: %v", err)
			}
		}
		cancel()
		if t.Failed() {
			close(slow.on)
			t.Log(<-done)
			return
		}
		f.AwaitSharedMounts("db")
		if c.again {
			f.B.MustMount("db", "three")
		}
		slow.on <- struct{}{}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if c.again {
			f.B.MustUnmount("db", "three")
		}
		f.AwaitSharedMounts("db")
	}
}
