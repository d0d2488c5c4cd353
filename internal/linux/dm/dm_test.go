package dm

import (
	"errors"
	"testing"
)

// The tests of backend lvm in the lab use real devices.

func TestMangle(t *testing.T) {
	for want, parts := range map[string][]string{
		"vg0-drover_pool":          {"vg0", "drover_pool"},
		"my--vg-drover_pool-tpool": {"my-vg", "drover_pool", "tpool"},
		"a----b-x":                 {"a--b", "x"},
	} {
		if got := Mangle(parts...); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestAbsent(t *testing.T) {
	if _, err := Find("drover-test-nobody-has-this"); !errors.Is(err, ErrAbsent) && !errors.Is(err, ErrNoMapper) {
		t.Error(err)
	}
	if _, err := Status("drover-test-nobody-has-this"); !errors.Is(err, ErrAbsent) && !errors.Is(err, ErrNoMapper) {
		t.Error(err)
	}
	if err := HasTarget("drover-no-such-target"); !errors.Is(err, ErrNoTarget) && !errors.Is(err, ErrNoMapper) {
		t.Error(err)
	}
	if _, err := Find(string(make([]byte, 200))); err == nil || errors.Is(err, ErrAbsent) {
		t.Errorf("a name that is too long: %v", err)
	}
}
