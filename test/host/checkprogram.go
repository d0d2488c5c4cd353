package host

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
)

// CheckProgram writes a shell script that checks restored volumes, and returns its path. The test removes the script at
// its end. The folder stays, because other tests can use it at the same time.
func CheckProgram(t testing.TB, script string) string {
	t.Helper()
	path := "/etc/drover/checks/test-" + uuid.NewString()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	})
	return path
}
