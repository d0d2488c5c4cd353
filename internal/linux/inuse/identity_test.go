package inuse

import (
	"errors"
	"fmt"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// The host has unmounted the dataset, and other namespaces show mounts with its device number.
func TestHoldersByIdentity(t *testing.T) {
	tree := mount.Filesystem{Minor: 91, Root: "/", Identity: mount.Identity{Type: "zfs", Source: "tank/db"}}
	overlay := entry(20, 0, 90, "/", "/", "rw")
	at := func(fstype, source string) *mount.Entry {
		e := entry(9, 0, 91, "/", "/data", "rw")
		e.FSType, e.Source = fstype, source
		return e
	}
	for name, c := range map[string]struct {
		p    Findings
		want bool
	}{
		"a container":                       {sees(overlay, at("zfs", "tank/db")), true},
		"a container with another ZFS":      {sees(overlay, at("zfs", "tank/other")), false},
		"a container with a tmpfs":          {sees(overlay, at("tmpfs", "tmpfs")), false},
		"an open file":                      {opened(at("zfs", "tank/db"), nil, "/data/a"), true},
		"an open file of a tmpfs":           {opened(at("tmpfs", "tmpfs"), nil, "/data/a"), false},
		"an open file, on a detached mount": {Findings{Files: []File{{minor: 91, path: "/", unplaced: true}}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := NewTreeUse(nil, tree, []string{"/m"}).CanWrite(c.p); got != c.want {
				t.Errorf("it holds it: %t", got)
			}
		})
	}
}

// Finds files on detached mounts of a dataset that the host has unmounted. The two btrfs are real,
// because the test needs statfs(2) of their files.
func TestDetachedFiles(t *testing.T) {
	one, other := scratch.Mount(t, "btrfs", scratch.Btrfs), scratch.Mount(t, "btrfs", scratch.Btrfs)
	table, err := mount.Table()
	require.NoError(t, err)
	recorded := mount.Identify(table.At(one))
	old := mount.Filesystem{Major: recorded.Major, Minor: recorded.Minor, Root: "/"}
	disk := mount.Filesystem{Major: 7, Minor: 4095, Root: "/", Identity: mount.Identity{Type: "xfs"}}
	file := func(dir string) (major, minor int, path string) {
		var st unix.Stat_t
		require.NoError(t, unix.Stat(dir, &st))
		return int(unix.Major(st.Dev)), int(unix.Minor(st.Dev)), dir
	}
	reused := func(string) (major, minor int, path string) {
		major, minor, _ = file(one)
		return major, minor, other
	}
	onDisk := func(string) (major, minor int, path string) { return 7, 4095, "/" }
	for name, c := range map[string]struct {
		was   mount.Filesystem
		file  func(string) (major, minor int, path string)
		where string
		want  bool
	}{
		"of the dataset":                           {recorded, file, one, true},
		"of another btrfs":                         {recorded, file, other, false},
		"of another btrfs that has got the number": {recorded, reused, "", false},
		"of a tmpfs":                               {recorded, file, "/dev", false},
		"of the dataset, identity not recorded":    {old, file, one, true},
		"of any btrfs, identity not recorded":      {old, file, other, true},
		"of a dataset on a disk":                   {disk, onDisk, "", true},
		"of another disk":                          {disk, file, "/", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Scan{}
			s.AddTree(c.was, nil)
			if got := s.detached(c.file(c.where)) != nil; got != c.want {
				t.Errorf("it counts: %t", got)
			}
		})
	}
}

// Many processes that are just below the limit of one process do not delay a look for long.
func TestBudget(t *testing.T) {
	const processes, all, each, fair, step = 10_000, 50_000, 1024, 64, 16
	b := NewBudget(all+processes*fair, each, fair)
	work := 0
	for i := range processes {
		done := 0
		var err error
		for done < each && err == nil {
			done, work = done+step, work+step
			err = b.spend(done, step)
		}
		if err != nil && !errors.Is(err, ErrBudget) || done < fair {
			t.Fatalf("process %d, %d units: %v", i, done, err)
		}
	}
	if most := all + processes*(2*fair+step); work > most {
		t.Errorf("%d units of work, want at most %d", work, most)
	}
	assert.ErrorIsf(t, NewBudget(all, each, fair).spend(each+1, 1), ErrTooMuch, "a process beyond its limit")
}

// All small tables together are read only up to a limit, and the read of a table can be ended.
func TestTablesAreRead(t *testing.T) {
	cmd := exec.Command("unshare", "--mount", "sh", "-c", "echo ready; exec cat")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf("/proc/%d", cmd.Process.Pid)
	enough := errors.New("enough")
	always, never := func(int) error { return nil }, func(int) error { return enough }
	for name, c := range map[string]struct {
		read func(*Scan) (*View, error)
		want error
	}{
		"small": {func(s *Scan) (*View, error) { return s.SmallTableOf(at) }, nil},
		"small, after many": {
			func(s *Scan) (*View, error) { s.listed.Store(listedTables); return s.SmallTableOf(at) }, ErrLargeTable,
		},
		"small, after it was too large": {func(s *Scan) (*View, error) {
			s.listed.Store(listedTables)
			_, _ = s.SmallTableOf(at)
			s.listed.Store(0)
			return s.SmallTableOf(at)
		}, ErrLargeTable},
		"whatever its size": {func(s *Scan) (*View, error) {
			s.listed.Store(listedTables)
			_, _ = s.SmallTableOf(at)
			return s.TableOf(at, always)
		}, nil},
		"ended": {func(s *Scan) (*View, error) { return s.TableOf(at, never) }, enough},
	} {
		t.Run(name, func(t *testing.T) {
			own, err := mount.Table()
			require.NoError(t, err)
			s, err := NewScan(own)
			require.NoError(t, err)
			if v, err := c.read(s); !errors.Is(err, c.want) || (v == nil) != (c.want != nil) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
	x := &Examination{tables: mount.MaxTable - 1}
	assert.NoError(t, x.endTableChunk(1))
	assert.ErrorIsf(t, x.endTableChunk(1), errTables, "tables without bound")
}
