// Package long skips tests that take long, unless the long form of the test run was requested (`make test-long`). No
// other package may skip a test: a missing requirement of a test is a failure (test/quality checks that). Only tests
// call it. It has no state besides the environment.
package long

import (
	"os"
	"testing"
)

// Only skips the test in the short form of the test run. In the long form, `make test-long`, which sets
// DROVER_TEST_LONG, the test continues.
func Only(t testing.TB) {
	t.Helper()
	if !Enabled() {
		t.Skip("takes long: make test-long")
	}
}

// Rounds returns short in the short form of the test run, and long in the long form. The result is a number of
// repetitions.
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
