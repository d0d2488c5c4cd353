//go:build steps

package steps

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
)

// Session returns the duration of sessions that a test has chosen. The other durations of leases depend on it. 0 means
// the configured duration. It panics if the environment variable is not a duration.
func Session() time.Duration {
	text := os.Getenv("DROVER_SESSION")
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		panic("DROVER_SESSION: " + err.Error())
	}
	return d
}

// Off reports whether a protection is disabled, for a test of its effect.
func Off(protection string) bool {
	return slices.Contains(strings.Split(os.Getenv("DROVER_OFF"), ","), protection)
}

// AdjustTime returns the time of a clock that a test has set to another time. It panics if the file does not contain a
// duration.
func AdjustTime(now time.Time) time.Time {
	file := os.Getenv("DROVER_CLOCK")
	if file == "" {
		return now
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return now
	}
	var off time.Duration
	if err == nil {
		off, err = time.ParseDuration(string(text))
	}
	if err != nil {
		panic("DROVER_CLOCK: " + err.Error())
	}
	return now.Add(off)
}
