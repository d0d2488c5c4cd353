package mount_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func device(t *testing.T, fstype string, size int64) string {
	t.Helper()
	d, err := loopdev.Attach(t.Context(), scratch.Image(t, fstype, size), loopdev.Options{BlockSize: 4096})
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.Close() })
	return d.Path
}

func mountAt(t *testing.T, target string, spec mount.Spec) {
	t.Helper()
	require.NoError(t, mount.Mount(target, spec))
	t.Cleanup(func() {
		if err := mount.Unmount(target); err != nil && !errors.Is(err, mount.ErrNotMounted) {
			t.Error(err)
		}
	})
}

func table(t *testing.T) mount.Mounts {
	t.Helper()
	m, err := mount.Table()
	require.NoError(t, err)
	return m
}

func TestMountAndUnmount(t *testing.T) {
	for fstype, size := range map[string]int64{"ext4": scratch.Ext4, "xfs": scratch.XFS, "btrfs": scratch.Btrfs} {
		t.Run(fstype, func(t *testing.T) {
			dev, target := device(t, fstype, size), t.TempDir()
			if table(t).At(target) != nil {
				t.Fatal("in the table before")
			}
			mountAt(t, target, mount.Spec{
				Source:  dev,
				FSType:  fstype,
				Options: []string{"noatime", "nosuid", "discard"},
			})
			e := table(t).At(target)
			if e == nil || e.FSType != fstype || e.Source != dev {
				t.Fatalf("got %+v", e)
			}
			opts := strings.Split(e.Options+","+e.VFSOptions, ",")
			for _, want := range []string{"noatime", "nosuid"} {
				if !slices.Contains(opts, want) {
					t.Errorf("no %s in %v", want, opts)
				}
			}
			if !strings.Contains(e.VFSOptions, "discard") {
				t.Errorf("no discard in %v", e.VFSOptions)
			}
			require.NoError(t, mount.Unmount(target))
			if table(t).At(target) != nil {
				t.Error("in the table after")
			}
			assert.ErrorIsf(t, mount.Unmount(target), mount.ErrNotMounted, "second unmount")
		})
	}
}

func TestReadOnly(t *testing.T) {
	dev, target := device(t, "ext4", scratch.Ext4), t.TempDir()
	mountAt(t, target, mount.Spec{Source: dev, FSType: "ext4", ReadOnly: true})
	assert.ErrorIs(t, os.Mkdir(filepath.Join(target, "d"), 0o700), unix.EROFS)
	if e := table(t).At(target); !strings.HasPrefix(e.VFSOptions, "ro") {
		t.Errorf("superblock options %q", e.VFSOptions)
	}
}

func TestErrorsCarryTheKernelsWords(t *testing.T) {
	dev, target := device(t, "xfs", scratch.XFS), t.TempDir()
	tests := []struct {
		name string
		spec mount.Spec
		want string
	}{
		{
			"unknown option", mount.Spec{Source: dev, FSType: "xfs", Options: []string{"glod"}},
			"Unknown parameter 'glod'",
		},
		{"bad value", mount.Spec{Source: dev, FSType: "xfs", Options: []string{"logbufs=many"}}, "logbufs"},
		{"wrong filesystem", mount.Spec{Source: dev, FSType: "ext4"}, "fsconfig create: invalid argument"},
		{"unknown filesystem", mount.Spec{Source: dev, FSType: "nosuchfs"}, "fsopen: no such device"},
		{"no device", mount.Spec{Source: "/dev/nosuch", FSType: "xfs"}, "no such file or directory"},
		{"two in one", mount.Spec{Source: dev, FSType: "xfs", Options: []string{"ro,nouuid"}}, "not a single " +
			"mount option"},
		{"empty option", mount.Spec{Source: dev, FSType: "xfs", Options: []string{""}}, "not a single mount option"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := mount.Mount(target, tt.spec)
			var e *mount.Error
			if !errors.As(err, &e) || e.Target != target || !strings.Contains(err.Error(), tt.want) ||
				strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line with %q", err, tt.want)
			}
			if table(t).At(target) != nil {
				t.Error("mounted")
			}
		})
	}
}

func TestTargetIsNotFollowed(t *testing.T) {
	dev, dir := device(t, "ext4", scratch.Ext4), t.TempDir()
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(t.TempDir(), link))
	for _, target := range []string{link, filepath.Join(dir, "missing")} {
		if err := mount.Mount(target, mount.Spec{Source: dev, FSType: "ext4"}); err == nil {
			t.Errorf("mounted on %s", target)
		}
	}
	if len(table(t).Under(dir)) != 0 {
		t.Error("something is mounted")
	}
}

func TestBusy(t *testing.T) {
	dev, target := device(t, "ext4", scratch.Ext4), t.TempDir()
	mountAt(t, target, mount.Spec{Source: dev, FSType: "ext4"})
	f, err := os.Create(filepath.Join(target, "open"))
	require.NoError(t, err)
	assert.ErrorIs(t, mount.Unmount(target), mount.ErrBusy)
	_, err = f.WriteString("still here")
	assert.NoError(t, err)
	f.Close()
	assert.NoError(t, mount.Unmount(target))
}

func TestDetached(t *testing.T) {
	file := scratch.Image(t, "ext4", scratch.Ext4)
	write := func() {
		d, err := loopdev.Attach(t.Context(), file, loopdev.Options{BlockSize: 4096})
		require.NoError(t, err)
		defer d.Close()
		dir, err := mount.Detached(mount.Spec{Source: d.Path, FSType: "ext4"})
		require.NoError(t, err)
		defer dir.Close()
		require.NoError(t, unix.Mkdirat(int(dir.Fd()), "made", 0o700))
		require.NoError(t, unix.Syncfs(int(dir.Fd())))
		for _, e := range table(t) {
			if e.Source == d.Path {
				t.Errorf("seen in the mount table: %+v", e)
			}
		}
	}
	write()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	if info, ok, err := loopdev.FindByFile(f); ok || err != nil {
		t.Errorf("still attached: %+v, %v", info, err)
	}
	mnt := scratch.MountImage(t, "ext4", file)
	_, err = os.Stat(filepath.Join(mnt, "made"))
	assert.NoError(t, err)
}

func TestBind(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	dir, err := os.Open(source)
	require.NoError(t, err)
	defer dir.Close()
	require.NoError(t, unix.Mknod(filepath.Join(source, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	for _, readOnly := range []bool{false, true} {
		require.NoError(t, mount.Bind(dir, target, mount.BindFlags{ReadOnly: readOnly, NoDev: true}))
		t.Cleanup(func() { _ = mount.Unmount(target) })
		err := os.WriteFile(filepath.Join(target, "f"), nil, 0o600)
		if readOnly != errors.Is(err, unix.EROFS) {
			t.Errorf("read-only %v: write gives %v", readOnly, err)
		}
		_, err = os.Stat(filepath.Join(source, "f"))
		assert.NoError(t, err)
		if f, err := os.Open(filepath.Join(target, "null")); !errors.Is(err, unix.EACCES) {
			t.Errorf("a device node opens: %v, %v", f, err)
		}
		require.NoError(t, mount.Unmount(target))
	}
}

func TestTableLookups(t *testing.T) {
	dev, dir := device(t, "ext4", scratch.Ext4), t.TempDir()
	odd := filepath.Join(dir, "odd \t\n\\ name")
	require.NoError(t, os.Mkdir(odd, 0o700))
	mountAt(t, odd, mount.Spec{Source: dev, FSType: "ext4"})
	mountAt(t, odd, mount.Spec{Source: "none", FSType: "tmpfs"})
	m := table(t)
	if e := m.At(odd); e == nil || e.FSType != "tmpfs" {
		t.Errorf("the upper mount is %+v", e)
	}
	if got := m.Under(dir); len(got) != 2 || got[0].FSType != "ext4" {
		t.Errorf("under: %+v", got)
	}
	if e := m.From(dev); e == nil || e.Mountpoint != odd {
		t.Errorf("from %s: %+v", dev, e)
	}
	if e := m.From("/dev/nosuch"); e != nil {
		t.Errorf("from nowhere: %+v", e)
	}
	if got := m.Under(dir[:len(dir)-1]); len(got) != 0 {
		t.Errorf("under a name's beginning: %+v", got)
	}
	if e := m.Under(dir)[0]; len(m.Of(e.Major, e.Minor)) != 1 {
		t.Errorf("of: %+v", m.Of(e.Major, e.Minor))
	}
}

// container runs a script in a separate mount namespace until the test ends. It returns the process ID once the script
// has printed a line.
func container(t *testing.T, script string, args ...string) int {
	t.Helper()
	cmd := exec.Command("unshare", append([]string{"--mount", "--propagation", "private",
		"sh", "-ec", script + "\necho ready; read -r line || true", "sh"}, args...)...)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		assert.NoError(t, cmd.Wait())
	})
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatalf("the container did not start: %v", err)
	}
	return cmd.Process.Pid
}

func TestHoldersElsewhere(t *testing.T) {
	dev, target, inside := device(t, "ext4", scratch.Ext4), t.TempDir(), t.TempDir()
	mountAt(t, target, mount.Spec{Source: dev, FSType: "ext4"})
	require.NoError(t, os.MkdirAll(filepath.Join(target, "sub", "deep"), 0o700))
	e := table(t).At(target)
	all := mount.Filesystem{Major: e.Major, Minor: e.Minor, Root: "/"}
	sub := mount.Filesystem{Major: e.Major, Minor: e.Minor, Root: "/sub"}
	holders := func(fsys mount.Filesystem) []mount.Holder {
		t.Helper()
		elsewhere, err := mount.ReadForeign()
		require.NoError(t, err)
		h := elsewhere.Holders(fsys, target)
		for i := range h {
			h[i].Namespace = 0
		}
		return h
	}

	container(t, "true") // holds a copy of our mount, at our path
	if got := holders(all); len(got) != 0 {
		t.Errorf("before: %+v", got)
	}
	pid := container(t, `mount --bind "$1" "$2"; umount "$1"`, target, inside)
	want := []mount.Holder{{PID: pid, Comm: "sh", Mountpoint: inside}}
	if diff := cmp.Diff(want, holders(all)); diff != "" {
		t.Error(diff)
	}
	if got := holders(sub); len(got) != 0 {
		t.Errorf("of a directory that is not mounted: %+v", got)
	}
	subPID := container(t, `mount --bind "$1/sub/deep" "$2"; rmdir "$1/sub/deep"`, target, inside)
	want = []mount.Holder{{PID: subPID, Comm: "sh", Mountpoint: inside}}
	if diff := cmp.Diff(want, holders(sub)); diff != "" {
		t.Error(diff)
	}
	if got := holders(all); len(got) != 2 {
		t.Errorf("of both: %+v", got)
	}
}

// A process that changed its root directory sees only the mounts below it. The other processes of its namespace must be
// found nevertheless.
func TestHoldersElsewhereBesideAChroot(t *testing.T) {
	dev, target, inside, jail := device(t, "ext4", scratch.Ext4), t.TempDir(), t.TempDir(), t.TempDir()
	mountAt(t, target, mount.Spec{Source: dev, FSType: "ext4"})
	e := table(t).At(target)
	for _, dir := range []string{"bin", "lib", "lib64", "usr"} {
		require.NoError(t, os.Mkdir(filepath.Join(jail, dir), 0o700))
	}
	pid := container(t, `for d in bin lib lib64 usr; do mount --bind "/$d" "$3/$d"; done
		mount --bind "$1" "$2"
		sleep 1000 >/dev/null 2>&1 & # holds the namespace outside of the jail
		exec chroot "$3" sh -ec 'echo ready; read -r line || true; kill $1' sh $!`, target, inside, jail)
	elsewhere, err := mount.ReadForeign()
	require.NoError(t, err)
	holders := elsewhere.Holders(mount.Filesystem{Major: e.Major, Minor: e.Minor, Root: "/"}, target)
	if len(holders) != 1 || holders[0].Mountpoint != inside || holders[0].PID == pid {
		t.Errorf("got %+v", holders)
	}
}

// InMemory also finds memory below a filesystem in an image file. A filesystem without a device is not reported as
// memory, except for tmpfs.
func TestInMemory(t *testing.T) {
	tmpfs, at := t.TempDir(), t.TempDir()
	mountAt(t, tmpfs, mount.Spec{Source: "none", FSType: "tmpfs"})
	image := filepath.Join(tmpfs, "disk")
	scratch.Copy(t, scratch.Image(t, "btrfs", scratch.Btrfs), image) // a btrfs has another number than its device
	dev, err := loopdev.Attach(t.Context(), image, loopdev.Options{})
	require.NoError(t, err)
	mountAt(t, at, mount.Spec{Source: dev.Path, FSType: "btrfs"})
	require.NoError(t, dev.Close())
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(at, link))
	for path, want := range map[string]string{
		tmpfs: "tmpfs", image: "tmpfs", filepath.Join(at, "not there"): "tmpfs", link: "tmpfs", "/proc": "", "/sys": "",
	} {
		if got := table(t).InMemory(path); got != want {
			t.Errorf("%s is in %q, not %q", path, got, want)
		}
	}
}
