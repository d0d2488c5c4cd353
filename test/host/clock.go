package host

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// SetClock sets the clock that the process shows, from now on and over restarts, to so much
// more than this machine's.
func (h *Host) SetClock(t testing.TB, off time.Duration) {
	t.Helper()
	next := h.clock() + ".next"
	if err := errors.Join(os.WriteFile(next, []byte(off.String()), 0o600), os.Rename(next, h.clock())); err != nil {
		t.Fatal(err)
	}
}

func (h *Host) clock() string { return filepath.Join(h.Dir, "clock") }
