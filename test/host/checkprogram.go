package host

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// CheckProgram writes a shell script that checks restored volumes, and returns its path. The test removes the script at
// its end. The folder stays, because other tests can use it at the same time.
func CheckProgram(t testing.TB, script string) string {
	t.Helper()
	path := "/etc/drover/checks/test-" + uuid.NewString()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700))
	t.Cleanup(func() {
		assert.NoError(t, os.Remove(path))
	})
	return path
}
