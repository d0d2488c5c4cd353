package btrfsctl

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// An item that the kernel returns is not believed: its length must fit its kind and the buffer.
func TestItemsThatAreTooShort(t *testing.T) {
	for name, c := range map[string]struct {
		length, buffer int
		kind           byte
		good           bool
	}{
		"inline":         {21, 21, 0, true},
		"short inline":   {20, 21, 0, false},
		"whole":          {53, 53, 1, true},
		"short":          {52, 53, 1, false},
		"beyond the end": {53, 52, 1, false},
	} {
		b := make([]byte, searchHeader+c.buffer)
		binary.NativeEndian.PutUint64(b[8:], 256)
		binary.NativeEndian.PutUint32(b[24:], extentData)
		binary.NativeEndian.PutUint32(b[28:], uint32(c.length))
		b[searchHeader+20] = c.kind
		if _, _, err := item(b, 256); (err == nil) != c.good || !c.good && !errors.Is(err, unix.EBADMSG) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
