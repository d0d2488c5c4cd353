// Package long keeps tests that take long out of the short form of the test run. It holds the only skip
// that this project has: what a test lacks is a failure (test/quality sees to it).
package long

import (
	"os"
	"testing"
)

// Only lets the test go on in the long form, `make test-long`, which sets DROVER_TEST_LONG, and skips it
// in the short one.
func Only(t testing.TB) {
	t.Helper()
	if !Enabled() {
		t.Skip("takes long: make test-long")
	}
}

// Rounds returns how often to repeat what is worth repeating: as often as in the form that runs.
func Rounds(short, long int) int {
	if Enabled() {
		return long
	}
	return short
}

// Enabled reports whether the long form runs.
func Enabled() bool {
	return os.Getenv("DROVER_TEST_LONG") != ""
}
