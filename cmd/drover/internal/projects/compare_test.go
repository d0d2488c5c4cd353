package projects

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// TestCompare: each property in which a copy can differ is seen.
func TestCompare(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(dir string) error
		says string
	}{
		"equal":     {func(string) error { return nil }, ""},
		"content":   {func(d string) error { return os.WriteFile(d+"/f", []byte("b"), 0o600) }, `"f": content`},
		"size":      {func(d string) error { return os.WriteFile(d+"/f", []byte("ab"), 0o600) }, `"f": size`},
		"mode":      {func(d string) error { return os.Chmod(d+"/f", 0o644) }, `"f": mode`},
		"owner":     {func(d string) error { return os.Chown(d+"/f", 7, 0) }, `"f": owner`},
		"attribute": {func(d string) error { return unix.Setxattr(d+"/f", "user.x", []byte("y"), 0) }, `"f": extended attributes`},
		"time":      {func(d string) error { return unix.Utimes(d+"/g", []unix.Timeval{{}, {Sec: 5}}) }, `"g": modification time`},
		"hard link": {func(d string) error { return errors.Join(os.Remove(d+"/h"), os.WriteFile(d+"/h", []byte("a"), 0o600)) }, `"h": `},
		"symlink":   {func(d string) error { return errors.Join(os.Remove(d+"/s"), os.Symlink("g", d+"/s")) }, `"s": link`},
		"missing":   {func(d string) error { return os.Remove(d + "/g") }, `"g": one of them lacks it`},
		"added":     {func(d string) error { return os.WriteFile(d+"/a", nil, 0o600) }, `"a": one of them lacks it`},
		"root":      {func(d string) error { return os.Chmod(d, 0o700) }, `"": mode`},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			local := filepath.Join(w.root, "src")
			for _, dir := range []string{local, w.folder("drover", "v")} {
				w.write(dir+"/f", "a")
				w.write(dir+"/g", "")
				err := errors.Join(os.Chmod(dir+"/f", 0o600), os.Link(dir+"/f", dir+"/h"), os.Symlink("f", dir+"/s"))
				for _, f := range []string{"/f", "/g"} {
					err = errors.Join(err, unix.Utimes(dir+f, []unix.Timeval{{}, {Sec: 9}}))
				}
				err = errors.Join(err, unix.Lutimes(dir+"/s", []unix.Timeval{{}, {Sec: 9}}))
				if err != nil {
					t.Fatal(err)
				}
			}
			err := c.do(local)
			for _, dir := range []string{local, w.folder("drover", "v")} { // only the change differs
				times := []unix.Timeval{{}, {Sec: 9}}
				err = errors.Join(err, unix.Utimes(dir, times), unix.Utimes(dir+"/f", times), unix.Lutimes(dir+"/s", times))
			}
			if err != nil {
				t.Fatal(err)
			}
			err = compare(t.Context(), fakeRemote{w: w}, "v", local)
			if c.says == "" && err != nil || c.says != "" && (!errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
}
