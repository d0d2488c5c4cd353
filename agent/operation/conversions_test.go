package operation

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// TestAwaitOutcome: a mount waits for a conversion that was reported to control, and not for one that still copies.
func TestAwaitOutcome(t *testing.T) {
	fake := clock.NewFake(time.Unix(0, 0))
	c := NewConversions(ConversionsDeps{Host: &host.Host{Clock: fake}})
	former := uuid.New()
	end := c.begin(dataset.Operation{DatasetID: former})
	if c.AwaitOutcome(t.Context(), former) {
		t.Error("while it copies: true")
	}
	c.running[former].reported = true
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if c.AwaitOutcome(ended, former) {
		t.Error("after the request has ended: true")
	}
	result := make(chan bool, 1)
	wait := func() { result <- c.AwaitOutcome(t.Context(), former) }
	go wait()
	for waits := true; waits; {
		select {
		case got := <-result:
			if waits = false; got {
				t.Error("after the timeout: true")
			}
		default:
			fake.Advance(outcomeTimeout)
			runtime.Gosched()
		}
	}
	c.reported[former] = reportedConversion{}
	go wait()
	end() // its outcome is unknown
	c.mu.Lock()
	delete(c.reported, former)
	c.announce()
	c.mu.Unlock()
	if !<-result {
		t.Error("after the end: false")
	}
}
