package nfs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/test/require"
)

// A kernel without modules either has NFS built in, or never gets it.
func TestMountable(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]bool{
		"nodev\ttmpfs\n\txfs\nnodev\tnfsd\n": false,
		"nodev\tnfs\nnodev\tnfs4\n":          true,
	} {
		file := filepath.Join(dir, "filesystems")
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		if got := mountable(file, filepath.Join(dir, "none")); got != want {
			t.Errorf("%q: %t, want %t", text, got, want)
		}
		if !mountable(file, dir) {
			t.Errorf("%q: not with modules", text)
		}
	}
	if !mountable(filepath.Join(dir, "none"), filepath.Join(dir, "none")) {
		t.Error("not where nothing can be read")
	}
}
