package host

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// SetClock sets how much the clock that the process sees differs from the clock of this machine. It also applies
// after restarts.
func (h *Host) SetClock(t testing.TB, off time.Duration) {
	t.Helper()
	next := h.clock() + ".next"
	if err := errors.Join(os.WriteFile(next, []byte(off.String()), 0o600), os.Rename(next, h.clock())); err != nil {
		t.Fatal(err)
	}
}

func (h *Host) clock() string { return filepath.Join(h.Dir, "clock") }
