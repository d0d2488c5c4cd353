// Package long keeps tests that take long out of the short form of the test run. It holds the only skip
// that this project has: a missing requirement of a test is a failure (checked by test/quality).
package long

import (
	"os"
	"testing"
)

// Only lets the test continue in the long form, `make test-long`, which sets DROVER_TEST_LONG, and skips it
// in the short one.
func Only(t testing.TB) {
	t.Helper()
	if !Enabled() {
		t.Skip("takes long: make test-long")
	}
}

// Rounds returns the number of repetitions for the form that runs.
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
