package crypt

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// list writes the answer of the kernel to the request LIST for these mappings.
func list(buf []byte, names []string) {
	ne := binary.NativeEndian
	at, last := headSize, 0
	for i, name := range names {
		size := (12 + len(name) + 1 + 7) &^ 7
		if at+size > len(buf) {
			ne.PutUint32(buf[28:], ne.Uint32(buf[28:])|flagBufferFull)
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
		binary.NativeEndian.PutUint32(buf[28:], flagBufferFull)
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "longer than 16 MiB") {
		t.Errorf("got %v", err)
	}
	if _, err := exchange(strings.Repeat("n", 128), 0, func([]byte) error { return nil }); err == nil {
		t.Error("a name that does not fit in is asked for")
	}
}
