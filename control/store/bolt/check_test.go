package bolt

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
)

// A file that cannot be read is not a damaged file, which the daemon would replace.
func TestUnreadableFileIsNotDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	if err := os.WriteFile(path, sample(t, 20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := (&Store{path: path}).check(t.Context(), f); err == nil || errors.Is(err, dataset.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}

// A page that claims to continue for terabytes makes bbolt's check use more and more memory. The child ends soon, and
// the store is refused. That is no proof of damage, because a child can also run out of the memory of the host.
func TestEndlessPage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	b := sample(t, 0)
	binary.NativeEndian.PutUint32(b[len(b)-pageSize+12:], 1<<31) // the root page
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), path, still)
	if dataset.KindOf(err) != dataset.ErrUnavailable || !strings.Contains(err.Error(), "check the file: exit status") ||
		strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}
