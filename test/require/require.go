// Package require ends a test whose preparation has failed.
package require

import (
	"errors"
	"fmt"
)

// T is a test, a benchmark, a fuzz target or a rapid check.
type T interface {
	Helper()
	Fatalf(format string, args ...any)
}

// NoError ends the test if err is not nil.
func NoError(t T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
}

// NoErrorf is NoError. The failure starts with what was done.
func NoErrorf(t T, err error, format string, args ...any) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", fmt.Sprintf(format, args...), err)
	}
}

// ErrorIs ends the test if err is not want.
func ErrorIs(t T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

// ErrorIsf is ErrorIs. The failure starts with what was done.
func ErrorIsf(t T, err, want error, format string, args ...any) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: got error %v, want %v", fmt.Sprintf(format, args...), err, want)
	}
}
