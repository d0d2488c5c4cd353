package operation

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
)

// An import examines the folder that it opened, even if another folder has that name by then.
func TestI6ImportLooksAtWhatItOpened(t *testing.T) {
	top := t.TempDir()
	if err := os.MkdirAll(top+"/src/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	src, err := safefile.OpenFolder(top + "/src")
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if err := errors.Join(os.Rename(top+"/src", top+"/moved"), os.Mkdir(top+"/src", 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", top+"/moved/sub", "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(top+"/moved/sub", unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := checkNoMountsBelow(src); !errors.Is(err, dataset.ErrInvalid) || !strings.Contains(err.Error(), top+"/moved/sub") {
		t.Errorf("%v, want that something is mounted in the folder that was opened", err)
	}
}
