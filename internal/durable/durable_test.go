package durable

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/test/require"
)

// Replace creates a file and replaces it, even if a crash left its temporary file. If the temporary file is a symbolic
// link, Replace fails, and does not change the target.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(path+".tmp", []byte("left by a crash, and longer"), 0o600))
	for _, want := range []string{"one", "", "another"} {
		require.NoError(t, Replace(path, []byte(want)))
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
		if _, err := os.Lstat(path + ".tmp"); !os.IsNotExist(err) {
			t.Errorf("the file that was written first is there: %v", err)
		}
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	victim := filepath.Join(dir, "victim")
	require.NoError(t, os.WriteFile(victim, []byte("mine"), 0o600))
	require.NoError(t, os.Symlink(victim, path+".tmp"))
	if err := Replace(path, []byte("x")); err == nil {
		t.Error("it followed a link")
	}
	if got, _ := os.ReadFile(victim); string(got) != "mine" {
		t.Errorf("the link's file holds %q", got)
	}
}

func TestNoSuchDirectory(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone")
	if err := SyncDir(gone); !os.IsNotExist(err) {
		t.Errorf("%v", err)
	}
	if err := Replace(filepath.Join(gone, "file"), nil); !os.IsNotExist(err) {
		t.Errorf("%v", err)
	}
}
