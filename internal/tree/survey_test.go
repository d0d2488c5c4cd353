package tree_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/internal/tree"
)

// A survey counts what restic stores, and names the files whose flags and times it does not restore.
func TestSurvey(t *testing.T) {
	dir := filepath.Join(scratch.Mount(t, "xfs", scratch.XFS), "data")
	if err := os.MkdirAll(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]time.Time{
		"plain": time.Unix(0, 0), "folder/old": time.Unix(-1e9, 0), "future": time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC),
		"fixed": time.Unix(1e9, 0),
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		ts := []unix.Timespec{{Sec: at.Unix()}, {Sec: at.Unix()}}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mknod(filepath.Join(dir, "socket"), unix.S_IFSOCK|0o600, 0); err != nil {
		t.Fatal(err)
	}
	fixed, err := os.Open(filepath.Join(dir, "fixed"))
	if err != nil {
		t.Fatal(err)
	}
	defer fixed.Close()
	if err := fsctl.SetImmutable(fixed, true); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = fsctl.SetImmutable(fixed, false) }()
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	got, err := tree.SurveyTree(t.Context(), root)
	want := tree.Survey{Names: 5, Flags: tree.Found{Count: 1, First: "fixed"}, Times: tree.Found{Count: 1, First: "future"}}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}
