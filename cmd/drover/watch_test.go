package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/dataset"
)

// TestListsWatch: --watch repeats a list until the user interrupts it, which is no failure.
func TestListsWatch(t *testing.T) {
	for args, item := range map[string]string{
		"volume ls --watch": "db ", "snapshot ls db -w": "before-upgrade", "operation ls -w": "0b000000",
		"pool ls -w -q": "b0000000", "node ls -w --format {{.Name}}": "host-a", "backup ls -w": "1c09bb5f",
	} {
		c := newConsole(theWorld())
		pauses := 0
		pause := 2 * time.Second
		if strings.HasPrefix(args, "backup ") { // each list of backups runs restic
			pause = 30 * time.Second
		}
		c.Sleep = func(_ context.Context, d time.Duration) error {
			if d != pause {
				t.Errorf("%s: a pause of %s, want %s", args, d, pause)
			}
			if pauses++; pauses == 3 {
				return errors.New("interrupted")
			}
			return nil
		}
		code := c.run(t, strings.Fields(args)...)
		if n := strings.Count(c.out.String(), item); code != 0 || pauses != 3 || n < 3 || n%3 != 0 {
			t.Errorf("%s: exit %d, %d pauses, %d times %q: %s%s", args, code, pauses, n, item, c.out.String(), c.err.String())
		}
	}
}

// TestListsWatchFail: an error of the server ends --watch.
func TestListsWatchFail(t *testing.T) {
	c := newConsole(theWorld())
	c.fake.fail = map[string]error{"Pools": dataset.Errorf(dataset.ErrForbidden, "not allowed")}
	if code := c.run(t, "pool", "ls", "--watch"); code != 1 || !strings.Contains(c.err.String(), "not allowed") {
		t.Errorf("exit %d, %s", code, c.err.String())
	}
}
