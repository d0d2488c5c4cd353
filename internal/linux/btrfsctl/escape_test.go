package btrfsctl_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/test/require"
)

// No path of a stream leads out of the subvolume that is received: neither by "..", nor through a symbolic link
// or a mount. A change of a symbolic link changes the link, not its target.
func TestI6ForgedPaths(t *testing.T) {
	p := newPool(t)
	owner := func(path string) uint32 {
		t.Helper()
		info, err := os.Lstat(path)
		require.NoError(t, err)
		return info.Sys().(*syscall.Stat_t).Uid
	}
	made := command(3, named("f"))
	folder := command(4, named("d"))
	link := func(to string) []byte { return command(8, named("l"), attribute(17, []byte(to))) }
	mine := func(name string) []byte {
		return command(19, named(name), attribute(6, uint64(7)), attribute(7, uint64(7)))
	}
	for what, c := range map[string]struct {
		in    func(dir string) [][]byte
		fails bool
	}{
		"a name above":     {func(string) [][]byte { return [][]byte{command(3, named("../made"))} }, true},
		"the folder above": {func(string) [][]byte { return [][]byte{mine("..")} }, true},
		"a new name above": {
			func(string) [][]byte { return [][]byte{made, command(9, named("f"), attribute(16, []byte("../made")))} },
			true,
		},
		"a second name from above": {
			func(string) [][]byte { return [][]byte{command(10, named("made"), attribute(17, []byte("../victim")))} },
			true,
		},
		"through a link": {
			func(dir string) [][]byte { return [][]byte{link(dir), command(3, named("l/made"))} }, true,
		},
		"through a link inside": {
			func(string) [][]byte { return [][]byte{folder, link("d"), command(3, named("l/made"))} }, true,
		},
		"through a link on the way": {func(string) [][]byte {
			return [][]byte{folder, command(4, named("d/e")), link("d"), command(3, named("l/e/made"))}
		}, true},
		"through a mount":           {func(string) [][]byte { return [][]byte{command(3, named("mount/made"))} }, true},
		"the owner of a link":       {func(string) [][]byte { return [][]byte{link("../victim"), mine("l")} }, false},
		"the owner of what is here": {func(string) [][]byte { return [][]byte{made, mine("f")} }, false},
	} {
		t.Run(what, func(t *testing.T) {
			top := filepath.Join(p.path, filepath.Base(t.Name()))
			if err := errors.Join(os.Mkdir(top, 0o700),
				os.WriteFile(filepath.Join(top, "victim"), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			dir := p.create(filepath.Join(filepath.Base(t.Name()), "dir"))
			mounted := filepath.Join(dir.Name(), "mount")
			require.NoError(t, errors.Join(os.Mkdir(mounted, 0o700), unix.Mount("none", mounted, "tmpfs", 0, "")))
			t.Cleanup(func() { _ = unix.Unmount(mounted, unix.MNT_DETACH) })
			err := btrfsctl.Apply(t.Context(), stream(c.in(top)...), dir, nil)
			if c.fails != errors.Is(err, btrfsctl.ErrStream) || !c.fails && err != nil {
				t.Errorf("it ends with %v", err)
			}
			var found []string
			for _, pattern := range []string{"made", "dir/made", "dir/*/made", "dir/*/*/made"} {
				at, err := filepath.Glob(filepath.Join(top, pattern))
				require.NoError(t, err)
				found = append(found, at...)
			}
			if len(found) > 0 || owner(top) != 0 || owner(filepath.Join(top, "victim")) != 0 {
				t.Errorf("something else was changed: %v", found)
			}
		})
	}
}
