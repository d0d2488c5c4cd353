package host

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
)

// Await repeats f until it succeeds. It is for conditions that become true soon and are not announced.
func Await(t testing.TB, what string, f func() error) {
	t.Helper()
	const limit = 90 * time.Second
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for start := time.Now(); ; <-tick.C {
		err := f()
		if err == nil {
			return
		}
		if time.Since(start) > limit {
			t.Fatalf("%s: not within %s: %v", what, limit, err)
		}
	}
}

// AwaitNoFinding waits until doctor reports no finding on a host whose text contains the given text.
func AwaitNoFinding(t testing.TB, h *Host, text string) {
	t.Helper()
	Await(t, fmt.Sprintf("doctor reports no finding with %q", text), func() error {
		for _, f := range h.Findings(t) {
			if strings.Contains(f.Text, text) {
				return errors.New(f.Subject + ": " + f.Text)
			}
		}
		return nil
	})
}

// Volumes returns the names of all volumes.
func (h *Host) Volumes(t testing.TB) []string {
	t.Helper()
	var all []api.Volume
	h.JSON(t, &all, "volume", "ls")
	var names []string
	for _, v := range all {
		names = append(names, v.Volume)
	}
	return names
}
