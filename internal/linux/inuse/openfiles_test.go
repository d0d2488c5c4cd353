package inuse

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/linux/process"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// script starts a shell script that has written a line when script returns, and ends it with the test.
func script(t *testing.T, command ...string) (pid int) {
	t.Helper()
	c := exec.Command(command[0], command[1:]...)
	in, err := c.StdinPipe()
	require.NoError(t, err)
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = in.Close()
		_ = c.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	return c.Process.Pid
}

// folder mounts a filesystem and returns the tree of a folder in it, which contains a file.
func folder(t *testing.T) (dir string, tree mount.Filesystem) {
	t.Helper()
	at := t.TempDir()
	require.NoError(t, unix.Mount("none", at, "tmpfs", 0, "size=1m,mode=755"))
	t.Cleanup(func() { assert.NoError(t, unix.Unmount(at, 0)) })
	dir = filepath.Join(at, "tree")
	err := os.Mkdir(dir, 0o777)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "file"), nil, 0o666)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(at, "beside"), nil, 0o666)
	}
	if err == nil {
		err = errors.Join(os.Chmod(dir, 0o777), os.Chmod(filepath.Join(dir, "file"), 0o666), os.Chmod(at, 0o755))
	}
	require.NoError(t, err)
	for parent := filepath.Dir(at); parent != os.TempDir(); parent = filepath.Dir(parent) {
		require.NoError(t, os.Chmod(parent, 0o755))
	}
	table, err := mount.Table()
	require.NoError(t, err)
	e := table.At(at)
	return dir, mount.Filesystem{Major: e.Major, Minor: e.Minor, Root: "/tree"}
}

// Which processes have a file of a tree open. Drover's processes do not count. A process of another user, or of root in
// a user namespace, counts even if it has the name of one of Drover's.
func TestOpen(t *testing.T) {
	const wait = `echo ready; read -r line || true`
	const detached = `mkdir -p "$0/../at"; mount --bind "$0" "$0/../at"; `
	const readOnly = `mount -o remount,bind,ro "$0/../at"; cd "$0/../at"; umount -l "$0/../at"; `
	for name, c := range map[string]struct {
		script  string
		user    string
		want    bool
		relPath string
	}{
		"a writer":              {script: `exec 3>>"$0/file"; `, want: true, relPath: "file"},
		"a reader":              {script: `exec 3<"$0/file"; `},
		"a working directory":   {script: `cd "$0"; `, want: true, relPath: "."},
		"a writer beside it":    {script: `exec 3>>"$0/../beside"; `},
		"a directory beside it": {script: `cd "$0/.."; `},
		"Drover":                {script: `exec 3>>"$0/file"; printf drover >/proc/$$/comm; `},
		"its hand":              {script: `exec 3>>"$0/file"; printf drover-hand >/proc/$$/comm; `},
		"a user called Drover": {
			script:  `exec 3>>"$0/file"; printf drover >/proc/$$/comm; `,
			user:    "65534",
			want:    true,
			relPath: "file",
		},
		"Drover in a namespace": {
			script:  `exec 3>>"$0/file"; printf drover >/proc/$$/comm; `,
			user:    "namespace",
			want:    true,
			relPath: "file",
		},
		"a file that was removed": {script: `exec 3>"$0/removed"; rm "$0/removed"; `, want: true, relPath: "removed"},
		"a detached mount": {
			script:  detached + `exec 3>>"$0/../at/file"; umount -l "$0/../at"; `,
			user:    "namespace",
			want:    true,
			relPath: "file",
		},
		"a directory on a detached mount that is read-only": {script: detached + readOnly},
		"such a directory of a container":                   {script: detached + readOnly, user: "namespace", want: true, relPath: "."},
		"one of a file beside it": {
			script: detached + `umount "$0/../at"; mount --bind "$0/.." "$0/../at"; exec 3>>"$0/../at/beside"; umount -l "$0/../at"; `,
			user:   "namespace",
		},
		"one of a file with two names": {
			script: detached + `ln "$0/file" "$0/link"; exec 3>>"$0/../at/file"; umount -l "$0/../at"; `,
			user:   "namespace", want: true, relPath: "link",
		},
		"one of a file beside it with two names": {
			script: detached + `ln "$0/../beside" "$0/../link"; umount "$0/../at"; mount --bind "$0/.." "$0/../at"; ` +
				`exec 3>>"$0/../at/beside"; umount -l "$0/../at"; `,
			user: "namespace",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, tree := folder(t)
			command := []string{"sh", "-ec", c.script + wait, dir}
			switch c.user {
			case "":
			case "namespace":
				command = append([]string{"unshare", "--mount"}, command...)
			default:
				command = append([]string{"setpriv", "--reuid", c.user, "--regid", c.user, "--clear-groups"},
					command...)
			}
			pid := script(t, command...)
			files, err := FindOpenFiles(t.Context(), []mount.Filesystem{tree})
			require.NoError(t, err)
			o, found := openerIn(files, tree, pid)
			if found != c.want || o.Path != c.relPath || o.Unexamined != nil {
				t.Errorf("found: %t, %+v", found, o)
			}
		})
	}
}

// openerIn returns what a look has found of a process.
func openerIn(files *Files, tree mount.Filesystem, pid int) (o Opener, found bool) {
	list := files.Openers(tree, nil)
	i := slices.IndexFunc(list, func(o Opener) bool { return o.PID == pid })
	if i < 0 {
		return o, false
	}
	return list[i], true
}

// A file on a detached mount of another btrfs does not count, whatever subvolume the tree contains. One in a
// subvolume of the tree does.
func TestOpenBesideAnotherBtrfs(t *testing.T) {
	disk, other := scratch.Mount(t, "btrfs", 128<<20), scratch.Mount(t, "btrfs", 128<<20)
	for _, at := range []string{disk, other} {
		require.NoError(t, os.MkdirAll(at+"/tree/at", 0o700))
		scratch.Run(t, "btrfs", "subvolume", "create", at+"/tree/head")
		require.NoError(t, os.WriteFile(at+"/tree/head/file", nil, 0o600))
	}
	const detached = `mount --bind "$0/tree" "$0/tree/at"; exec 3>>"$0/tree/at/head/file"; umount -l "$0/tree/at"; echo ready; read -r line || true`
	tree := filesystemOn(t, disk, "/tree")
	tree.Identity = mount.Identity{}
	for at, want := range map[string]bool{disk: true, other: false} {
		pid := script(t, "unshare", "--mount", "sh", "-ec", detached, at)
		files, err := FindOpenFiles(t.Context(), []mount.Filesystem{tree})
		require.NoError(t, err)
		if o, found := openerIn(files, tree, pid); found != want || want && o.Path != "head/file" {
			t.Errorf("the own filesystem: %t; found: %t, %+v", want, found, o)
		}
	}
}

// A removed file with an unknown place belongs to no tree any more.
func TestRemovedFileIsNoUse(t *testing.T) {
	h := NewTreeUse(nil, mount.Filesystem{Major: 8, Minor: 1, Root: "/tree"}, nil)
	f := File{major: 8, minor: 1, path: "/", unplaced: true}
	if !h.isUsedBy(f) {
		t.Error("a file with an unknown place does not count")
	}
	if f.removed = true; h.isUsedBy(f) {
		t.Error("a removed file counts")
	}
}

// A look shares its work between callers, but no caller gets one that began before its call.
func TestOpenIsNeverOld(t *testing.T) {
	var wg sync.WaitGroup
	for range 4 {
		dir, tree := folder(t)
		wg.Go(func() {
			for n := range 20 {
				c := exec.Command("sleep", "infinity")
				c.Dir = dir
				if err := c.Start(); err != nil {
					t.Error(err)
					return
				}
				_, before := look(t, tree, c.Process.Pid)
				_ = c.Process.Kill()
				_ = c.Wait()
				_, after := look(t, tree, c.Process.Pid)
				if !before || after {
					t.Errorf("round %d: found while it runs: %t, later: %t", n, before, after)
				}
			}
		})
	}
	wg.Wait()
}

func look(t *testing.T, tree mount.Filesystem, pid int) (Opener, bool) {
	files, err := FindOpenFiles(t.Context(), []mount.Filesystem{tree})
	if err != nil {
		t.Error(err)
		return Opener{}, false
	}
	return openerIn(files, tree, pid)
}

// A process that needs too much work for the first pass, or whose examination seems to hang, is examined after
// the others. If its examination hangs again, it counts as one that cannot be examined.
func TestOpenExaminesTheLargeLast(t *testing.T) {
	dir, tree := folder(t)
	pid := script(t, "sh", "-ec", `cd "$0"; echo ready; read -r line || true`, dir)
	id, err := process.Of(pid)
	require.NoError(t, err)
	own, err := mount.Table()
	require.NoError(t, err)
	for name, c := range map[string]struct {
		budget       *Budget
		hangs, again bool
	}{
		"too much":      {budget: NewBudget(0, 0, 0)},
		"more than all": {budget: NewBudget(0, quickWork, 0)},
		"it hangs":      {budget: NewBudget(allQuickWork, quickWork, fairWork), hangs: true},
		"it hangs on":   {budget: NewBudget(allQuickWork, quickWork, fairWork), hangs: true, again: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := &filesLook{own: own, trees: identified(own, []mount.Filesystem{tree}), found: &Files{own: own}}
			if c.hangs && !examiner.begin(id) {
				t.Fatal("it is being examined")
			}
			again, err := l.pass(time.Minute, []int{pid}, c.budget)
			if err != nil || !slices.Equal(again, []int{pid}) || len(l.found.opened) != 0 {
				t.Errorf("at first: %v, %v, %v", again, err, l.found.opened)
			}
			if c.hangs && !c.again {
				examiner.end(id)
			}
			_, err = l.pass(time.Minute, again, nil)
			o, found := openerIn(l.found, tree, pid)
			if err != nil || !found || c.again != errors.Is(o.Unexamined, ErrHung) {
				t.Errorf("then: %v, %v", err, l.found.opened)
			}
			if c.again {
				examiner.end(id)
			}
		})
	}
}

// This process does not count, and nobody else has the tree open.
func TestOpenLeavesItselfOut(t *testing.T) {
	dir, tree := folder(t)
	f, err := os.Create(filepath.Join(dir, "own"))
	require.NoError(t, err)
	defer f.Close()
	files, err := FindOpenFiles(t.Context(), []mount.Filesystem{tree})
	require.NoError(t, err)
	for _, o := range files.Openers(tree, nil) {
		if o.Unexamined == nil {
			t.Errorf("%v", o)
		}
	}
}

// If a look takes too long, each process that was not examined is part of the result. If the context of the caller
// has ended, the look is an error.
func TestOpenIsBounded(t *testing.T) {
	pid := script(t, "sh", "-ec", "echo ready; read -r line || true")
	_, tree := folder(t)
	files, err := openFiles(0, 0, []mount.Filesystem{tree})
	require.NoError(t, err)
	found := false
	for _, o := range files.Openers(tree, nil) {
		found = found || o.PID == pid && errors.Is(o.Unexamined, mount.ErrScanTimeout)
	}
	if !found {
		t.Errorf("process %d does not count", pid)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := FindOpenFiles(ctx, []mount.Filesystem{tree}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// A file on a detached mount is recognized by the device number that stat(2) reports, also when the host
// has not mounted its filesystem any more.
func TestDetached(t *testing.T) {
	const dir = "/proc" // not on a btrfs
	for name, c := range map[string]struct {
		wanted       mount.Filesystem
		e            *mount.Entry
		major, minor int
		want         bool
	}{
		"mounted":               {mount.Filesystem{Major: 8, Minor: 1}, &mount.Entry{FSType: "ext4"}, 8, 1, true},
		"not mounted":           {mount.Filesystem{Major: 8, Minor: 1}, nil, 8, 1, true},
		"another disk":          {mount.Filesystem{Major: 8, Minor: 1}, nil, 8, 2, false},
		"a share, not mounted":  {mount.Filesystem{Minor: 50}, nil, 0, 50, true},
		"another, and no btrfs": {mount.Filesystem{Minor: 50}, nil, 0, 51, false},
	} {
		s := &Scan{}
		s.AddTree(c.wanted, c.e)
		if got := s.detached(c.major, c.minor, dir) != nil; got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// examined returns the findings of this process, and a TreeUse of a tree.
func examined(t *testing.T, tree mount.Filesystem) (Findings, *TreeUse) {
	t.Helper()
	table, err := mount.Table()
	require.NoError(t, err)
	s, err := NewScan(table)
	require.NoError(t, err)
	s.AddTree(tree, nil)
	f, err := (&Examination{Scan: s, PID: os.Getpid()}).run()
	require.NoError(t, err)
	return f, NewTreeUse(table, tree, nil)
}

// filesystemOn returns the tree root of the filesystem that is mounted on a path.
func filesystemOn(t *testing.T, path, root string) mount.Filesystem {
	t.Helper()
	table, err := mount.Table()
	require.NoError(t, err)
	e := table.At(path)
	return mount.Filesystem{Major: e.Major, Minor: e.Minor, Root: root, Identity: mount.Identity{Type: e.FSType}}
}

// The kernel does not show a path that is longer than a page. Such a file may be in any tree of the
// filesystem.
func TestLongPathCounts(t *testing.T) {
	disk := scratch.Mount(t, "ext4", scratch.Ext4)
	at, err := unix.Open(disk, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	name := strings.Repeat("x", 250)
	for range os.Getpagesize()/len(name) + 1 {
		require.NoError(t, unix.Mkdirat(at, name, 0o700))
		next, err := unix.Openat(at, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Close(at))
		at = next
	}
	defer unix.Close(at)
	if f, h := examined(t, filesystemOn(t, disk, "/dataset")); !h.CanWrite(f) {
		t.Error("it holds nothing")
	}
}

// An XFS that has shut down describes no file. On a detached mount, only statfs(2) says which filesystem it is.
func TestDetachedFromADeadDisk(t *testing.T) {
	alive, dead := scratch.Mount(t, "xfs", scratch.XFS), scratch.Mount(t, "xfs", scratch.XFS)
	ofAlive, ofDead := filesystemOn(t, alive, "/"), filesystemOn(t, dead, "/")
	dir, err := os.Open(dead)
	require.NoError(t, err)
	defer dir.Close()
	scratch.ShutDown(t, dead)
	require.NoError(t, unix.Unmount(dead, unix.MNT_DETACH))
	if f, h := examined(t, ofDead); !h.CanWrite(f) {
		t.Error("a file on the dead disk does not count")
	}
	if f, h := examined(t, ofAlive); h.CanWrite(f) {
		t.Error("a file on the dead disk counts for another one")
	}
}
