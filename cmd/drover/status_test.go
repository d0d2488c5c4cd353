package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/cmd/drover/internal/status"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// TestStatusWatch repeats the report until the user interrupts it, and then exits with 0.
func TestStatusWatch(t *testing.T) {
	for _, args := range []string{"status --watch", "status -w -o json"} {
		c := newConsole(theWorld())
		c.Sleep = func(ctx context.Context, d time.Duration) error {
			if d == status.ExamineAfter {
				<-ctx.Done()
				return ctx.Err()
			}
			if d != status.WatchPause {
				t.Errorf("paused for %s, want %s", d, status.WatchPause)
			}
			if c.slept++; c.slept == 3 {
				return context.Canceled
			}
			return nil
		}
		if code := c.run(t, strings.Fields(args)...); code != 0 || c.err.Len() > 0 {
			t.Errorf("%s: exit code %d, %s", args, code, c.err.String())
		}
		if n := strings.Count(c.out.String(), "pool plain"); n < 3 || strings.Contains(c.out.String(), "\x1b") {
			t.Errorf("%s: pool plain is reported %d times, want once in each of 3 reports:\n%s", args, n, c.out.String())
		}
	}
}

// A failed purge is reported until its dataset has left the trash, because Drover repeats it without a record.
func TestStatusOfARepeatedPurge(t *testing.T) {
	for _, pending := range []bool{true, false} {
		c := newConsole(theWorld())
		db := c.fake.volumes[0]
		db.ID = uuid.New()
		c.fake.operations = []dataset.Operation{{
			ID: uuid.New(), Kind: dataset.OpPurge, Volume: "db", DatasetID: db.ID, State: dataset.OpFailed,
			Created: c.Now().Add(-time.Minute), Problem: &dataset.Problem{Message: "it has a snapshot that is in use"},
		}}
		c.fake.trash = nil
		if pending {
			c.fake.trash = []api.Volume{db}
		}
		c.run(t, "status")
		if got := strings.Contains(c.out.String(), "purge of db failed"); got != pending {
			t.Errorf("pending: %t, reported: %t:\n%s", pending, got, c.out.String())
		}
	}
}
