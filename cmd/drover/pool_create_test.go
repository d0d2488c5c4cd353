package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// A relative path for a new pool is refused, even on the server's host. The error contains the absolute path.
func TestPoolIsMadeAtNoRelativePath(t *testing.T) {
	would, err := filepath.Abs("drover-pool")
	if err != nil {
		t.Fatal(err)
	}
	for _, flag := range []string{"path", "device"} {
		c := newConsole(theWorld())
		if code := c.run(t, "pool", "create", "fast", "--backend", "loop", "--"+flag, "drover-pool"); code == 0 {
			t.Errorf("--%s: exit %d", flag, code)
		}
		if want := ": --" + flag + " " + would + "\n"; !strings.HasSuffix(c.err.String(), want) {
			t.Errorf("--%s: %q, want %q at its end", flag, c.err.String(), want)
		}
	}
}
