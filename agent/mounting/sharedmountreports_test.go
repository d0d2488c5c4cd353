package mounting_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
)

// slowWord is a way to control on which the word that something is mounted is held up, once it is armed: on
// its way there, or the answer.
type slowWord struct {
	api.Service
	arm       chan bool // the answer
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

// A guest mounts and unmounts what is mounted there while control is asked about it; what control hears of
// that later than of the end, or of the next mount, or is heard of it then, is mended.
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
		go func() { done <- f.B.SharedMounter.Reconcile(t.Context(), d.ID, uuid.Nil) }()
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
