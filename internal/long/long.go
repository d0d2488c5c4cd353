// Package long skips tests that take long and shortens others, unless the long form of the test run was requested
// (`make test-long`). No other package may skip a test: a missing requirement of a test is a failure (test/quality
// checks that). Only tests call it. It has no state besides the environment.
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

// Turn reports whether a cell of a matrix is tested. In the long form it is always true. In the short form about one
// cell in n is tested, and the tested cells are on diagonals: a matrix with at least n rows and n columns has a tested
// cell in each row and in each column. If the matrix has fewer than n rows or columns, that smaller number is used
// instead of n, so each row and each column still has a tested cell. row and column are counted from 0.
func Turn(row, rows, column, columns, n int) bool {
	return Enabled() || (row+column)%max(1, min(n, rows, columns)) == 0
}

// Enabled reports whether the long form runs.
func Enabled() bool {
	return os.Getenv("DROVER_TEST_LONG") != ""
}
