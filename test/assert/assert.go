// Package assert has checks that report a failure and let the test continue. Those of package require end the test.
package assert

import (
	"errors"
	"fmt"
)

// T is a test, a benchmark, a fuzz target or a rapid check.
type T interface {
	Helper()
	Errorf(format string, args ...any)
}

// NoError fails the test if err is not nil.
func NoError(t T, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%v", err)
	}
}

// NoErrorf does what NoError does. Its failure message begins with the formatted text.
func NoErrorf(t T, err error, format string, args ...any) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", fmt.Sprintf(format, args...), err)
	}
}

// ErrorIs fails the test if err is not want.
func ErrorIs(t T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

// ErrorIsf does what ErrorIs does. Its failure message begins with the formatted text.
func ErrorIsf(t T, err, want error, format string, args ...any) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", fmt.Sprintf(format, args...), err, want)
	}
}
