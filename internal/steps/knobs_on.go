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

// Session is the time of sessions for a short test; the other times of leases depend on it. 0: as configured.
// It panics when that is no time.
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

// Off reports whether a protection is switched off, for a test that checks the effect of the protection.
func Off(protection string) bool {
	return slices.Contains(strings.Split(os.Getenv("DROVER_OFF"), ","), protection)
}

// Set returns the time of a clock that was set to another time. It panics when a file
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
