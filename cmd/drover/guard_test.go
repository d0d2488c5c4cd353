package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A guard does not start if its fence could end after another node may continue the volume. It creates nothing then.
func TestGuardStepIsBounded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	for _, step := range []string{"2s", "1ms", "-1s", "0s"} {
		c := newConsole(&fake{})
		code := c.run(t, "guard", "--run", dir, "--root", dir, "--step", step)
		if code == 0 || !strings.Contains(c.err.String(), "--step "+step) || !strings.Contains(c.err.String(), "50ms to 1s") {
			t.Errorf("--step %s: exit %d, %s", step, code, c.err.String())
		}
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("it made something: %v", err)
	}
}
