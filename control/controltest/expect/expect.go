// Package expect has the checks that the tests of control share and that do not depend on package control. Package
// controltest and the tests of packages such as placement and record call it. It has no state. A check of a result,
// such as an error, belongs here. A check that needs a service belongs in package controltest.
package expect

import (
	"errors"
	"strings"

	"github.com/droverhq/drover/dataset"
)

// TB is the common part of a test, a benchmark, a fuzz target and a rapid check.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Cleanup(func())
}

// Refusal fails the test unless err is of the kind, is one line of at most 1500 bytes, and contains each of the parts.
func Refusal(t TB, err error, kind *dataset.Kind, parts ...string) {
	t.Helper()
	if dataset.KindOf(err) != kind {
		t.Fatalf("got %v (%v), want %s", err, dataset.KindOf(err), kind.Code)
	}
	if !errors.Is(err, kind) || strings.Contains(err.Error(), "\n") || len(err.Error()) > 1500 {
		t.Errorf("not one short line of kind %s: %q", kind.Code, err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%q does not say %q", err, p)
		}
	}
}
