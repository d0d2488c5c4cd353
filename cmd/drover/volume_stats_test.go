package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestVolumeStatsWatch repeats the table until the command is interrupted. The second table needs only one more
// reading.
func TestVolumeStatsWatch(t *testing.T) {
	c := newConsole(theWorld())
	sleeps := 0
	c.Sleep = func(context.Context, time.Duration) error {
		if sleeps++; sleeps > 3 {
			return errors.New("interrupted")
		}
		return nil
	}
	if code := c.run(t, "volume", "stats", "--watch"); code != 1 || !strings.Contains(c.err.String(), "interrupted") {
		t.Errorf("exit %d, %q", code, c.err.String())
	}
	if n := strings.Count(c.out.String(), "64         1MiB"); n != 3 || c.fake.ioReadings != 4 {
		t.Errorf("%d tables of %d readings:\n%s", n, c.fake.ioReadings, c.out.String())
	}
}
