package dm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
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

// list writes the answer of the kernel to the request LIST for these mappings.
func list(buf []byte, names []string) {
	ne := binary.NativeEndian
	at, last := headerSize, 0
	for i, name := range names {
		size := (12 + len(name) + 1 + 7) &^ 7
		if at+size > len(buf) {
			ne.PutUint32(buf[28:], ne.Uint32(buf[28:])|flagFull)
			return
		}
		if i > 0 {
			ne.PutUint32(buf[last+8:], uint32(at-last))
		}
		ne.PutUint64(buf[at:], uint64(i+1))
		copy(buf[at+12:], name)
		last, at = at, at+size
	}
}

// All mappings of a host are found, however many there are. An answer that never fits is an error.
func TestListOfMany(t *testing.T) {
	for _, n := range []int{0, 1, 3, 400, 40_000} {
		var names []string
		for i := range n {
			names = append(names, fmt.Sprintf("%s-%d", strings.Repeat("long", 20), i))
		}
		asked := 0
		buf, err := exchange("", 0, func(buf []byte) error {
			asked++
			if len(buf) != int(binary.NativeEndian.Uint32(buf[12:])) {
				t.Fatalf("%d bytes, which it says are %d", len(buf), binary.NativeEndian.Uint32(buf[12:]))
			}
			list(buf, names)
			return nil
		})
		if err != nil || !slices.Equal(listed(buf), names) {
			t.Errorf("of %d mappings it found %d, %v", n, len(listed(buf)), err)
		}
		if want := n > 200; (asked > 1) != want {
			t.Errorf("of %d mappings it asked %d times", n, asked)
		}
	}
	_, err := exchange("", 0, func(buf []byte) error {
		binary.NativeEndian.PutUint32(buf[28:], flagFull)
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "longer than 16 MiB") {
		t.Errorf("got %v", err)
	}
	if _, err := exchange(strings.Repeat("n", 128), 0, func([]byte) error { return nil }); err == nil {
		t.Error("a name that does not fit in is asked for")
	}
}
