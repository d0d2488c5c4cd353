package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/cmd/drover/internal/status"
)

// TestStatusWatch repeats the report until the user interrupts it, and then exits with 0.
func TestStatusWatch(t *testing.T) {
	for _, args := range []string{"status --watch", "status -w -o json"} {
		c := newConsole(theWorld())
		c.Sleep = func(_ context.Context, d time.Duration) error {
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
