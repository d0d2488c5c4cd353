package host

import (
	"testing"
	"time"
)

// SetDiscardTime changes discardTime until the test ends.
func SetDiscardTime(t *testing.T, d time.Duration) {
	was := discardTime
	discardTime = d
	t.Cleanup(func() { discardTime = was })
}
