package restic

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A run is ended after ten minutes without progress, and at most half a minute later. Little noise is no progress.
func TestStallWatch(t *testing.T) {
	const never = time.Duration(0)
	for name, c := range map[string]struct {
		work func(since time.Duration) (bytes int64, cpu time.Duration)
		ends time.Duration // the earliest
	}{
		"nothing": {func(time.Duration) (int64, time.Duration) { return 0, 0 }, 10 * time.Minute},
		"progress for an hour": {func(since time.Duration) (int64, time.Duration) {
			return int64(min(since, time.Hour)), 0
		}, 70 * time.Minute},
		"bytes":          {func(since time.Duration) (int64, time.Duration) { return stallBytes * int64(since/(9*time.Minute)), 0 }, never},
		"CPU time":       {func(since time.Duration) (int64, time.Duration) { return 0, since / 500 }, never},
		"few bytes":      {func(since time.Duration) (int64, time.Duration) { return int64(since / time.Second), 0 }, 10 * time.Minute},
		"hardly the CPU": {func(since time.Duration) (int64, time.Duration) { return 0, since / 1000 }, 10 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
				defer cancel()
				began, ended := time.Now(), never
				stallWatch{stallLimit, func() (int64, time.Duration, error) {
					bytes, cpu := c.work(time.Since(began))
					return bytes, cpu, nil
				}, func() { ended = time.Since(began) }}.run(ctx)
				if ended < c.ends || ended > c.ends+time.Minute/2 {
					t.Errorf("ended after %s, want %s", ended, c.ends)
				}
			})
		})
	}
}

// A run that cannot be observed is not ended.
func TestUnobservedRunIsNotEnded(t *testing.T) {
	failing := func() (int64, time.Duration, error) { return 0, 0, errors.New("no such process") }
	stallWatch{stallLimit, failing, func() { t.Error("ended") }}.run(t.Context())
}
