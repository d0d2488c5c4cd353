package safefile

import (
	"os"
	"path/filepath"
	"testing"
)

// A caller that opened the file of a lock before it was removed has no lock: the next caller locks another file.
func TestLockOnARemovedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	f, err := openLock(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if locked, err := tryLock(f, path); err != nil || locked {
		t.Errorf("locked %t, %v", locked, err)
	}
}
