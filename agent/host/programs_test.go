package host

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func check(args, allowed []string) error { return (&Programs{Allowed: allowed}).Check(args) }

// A program that a profile names runs as root. So only root may be able to change it or replace it by something else,
// and this host must allow it.
func TestCheckProgram(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "sub", "off")
	require.NoError(t, errors.Join(os.Mkdir(filepath.Dir(file), 0o755), os.WriteFile(file, nil, 0o755)))
	assert.NoError(t, check([]string{file}, nil))
	assert.NoError(t, check([]string{file, "-f"}, []string{"/bin/off", file}))
	for _, allowed := range [][]string{{}, {"/bin/off"}} {
		if err := check([]string{file, "/bin/off"}, allowed); dataset.KindOf(err) != dataset.ErrForbidden || !strings.Contains(err.Error(), "fence_programs") {
			t.Errorf("%q: %v", allowed, err)
		}
	}
	for what, change := range map[string]func() error{
		"for a group to write":      func() error { return os.Chmod(file, 0o775) },
		"another's":                 func() error { return errors.Join(os.Chmod(file, 0o755), os.Chown(file, 1000, 0)) },
		"a folder":                  func() error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o755)) },
		"in a folder of another":    func() error { return os.Chown(filepath.Dir(file), 1000, 0) },
		"in a folder for all":       func() error { return os.Chmod(filepath.Dir(file), 0o777|os.ModeSticky) },
		"below a folder of another": func() error { return os.Chown(dir, 1000, 0) },
		"below a folder of a group": func() error { return os.Chmod(dir, 0o775) },
		"a link in a folder of another": func() error {
			return errors.Join(os.Rename(file, dir+"/off"), os.Symlink(dir+"/off", file), os.Chown(filepath.Dir(file), 1000, 0))
		},
	} {
		require.NoError(t, change())
		if err := check([]string{file}, nil); dataset.KindOf(err) != dataset.ErrForbidden {
			t.Errorf("%s: %v", what, err)
		}
		sub := filepath.Dir(file)
		if err := errors.Join(os.RemoveAll(sub), os.Mkdir(sub, 0o755), os.WriteFile(file, nil, 0o755), os.Chown(dir, 0, 0), os.Chmod(dir, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	if err := check([]string{file + "x"}, nil); dataset.KindOf(err) != dataset.ErrNotFound {
		t.Error(err)
	}
	if err := check([]string{"off"}, nil); dataset.KindOf(err) != dataset.ErrInvalid {
		t.Error(err)
	}
}
