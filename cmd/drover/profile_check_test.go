package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A profile that freezes has a moment that others have not: the check says so.
func TestProfileCheckTellsOfFreezes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "profiles.yaml")
	src := "default: plain\nprofiles:\n  plain: {}\n  still:\n    quiesce: freeze\n"
	if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newConsole(&fake{})
	code := c.run(t, "profile", "check", file)
	if out := c.out.String(); code != 0 || strings.Count(out, "freezes") != 1 || !strings.Contains(out, "profile still freezes") || !strings.Contains(out, "fsfreeze -u") {
		t.Errorf("exit %d: %s%s", code, out, c.err.String())
	}
	c = newConsole(&fake{})
	if c.run(t, "profile", "check", "-o", "json", file); strings.Contains(c.out.String(), "freezes:") {
		t.Errorf("in JSON: %s", c.out.String())
	}
}
