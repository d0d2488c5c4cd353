package loop

import (
	"strings"
	"testing"
)

// Where discards cannot be turned off, the pool says what that means.
func TestDiscardsThatStayOn(t *testing.T) {
	img := &poolImage{file: "/disk/pool.img"}
	img.keepBlocks("/dev/loop-that-is-none")
	if list := img.Warnings(); len(list) != 1 || !strings.Contains(list[0], "fstrim") ||
		!strings.Contains(list[0], "/dev/loop-that-is-none") {
		t.Errorf("warnings: %q", list)
	}
}
