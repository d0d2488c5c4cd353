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

// Session is the time of sessions that a test with little of it wants, by which the
// other times of leases go; 0: as it is configured. It panics when that is no time.
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

// Off reports whether a protection is switched off, for a test that is to see what is
// missed then.
func Off(protection string) bool {
	return slices.Contains(strings.Split(os.Getenv("DROVER_OFF"), ","), protection)
}

// Set is what a clock shows that somebody has set to another time. It panics when a file
// says no time.
func Set(now time.Time) time.Time {
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
