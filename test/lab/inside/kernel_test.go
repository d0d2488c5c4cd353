//go:build lab

package inside_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/lab/inside"
)

const mib = 1 << 20

// do runs a command and returns its output.
func do(t *testing.T, in string, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(in)
	// There is no udev, for which they would wait.
	cmd.Env = append(os.Environ(), "DM_DISABLE_UDEV=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// after runs a command at the end of the test, after the clean-ups that are registered later.
func after(t *testing.T, args ...string) {
	t.Helper()
	t.Cleanup(func() { do(t, "", args...) })
}

// mounted mounts a device on a separate folder.
func mounted(t *testing.T, device, fstype, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount(device, dir, fstype, 0, options); err != nil {
		t.Fatalf("mount %s with %q: %v", device, options, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func holds(t *testing.T, path, want string) {
	t.Helper()
	if b, err := os.ReadFile(path); err != nil || string(b) != want {
		t.Errorf("%s holds %q (%v), want %q", path, b, err, want)
	}
}

// The machine's cgroups are like those of a present-day host.
func TestCgroups(t *testing.T) {
	b, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{"cpu", "io", "memory", "pids"} {
		if !strings.Contains(string(b), c) {
			t.Errorf("no controller %s in %s", c, b)
		}
	}
}

// A thin pool, a volume with XFS, and a snapshot that keeps the former contents of the volume.
func TestThinVolumes(t *testing.T) {
	disk := inside.Disk(t, "first")
	do(t, "", "vgcreate", "smoke", disk)
	after(t, "vgremove", "--force", "smoke")
	do(t, "", "lvcreate", "--type", "thin-pool", "--extents", "80%FREE", "--poolmetadatasize", "16m", "--name", "pool", "smoke")
	do(t, "", "lvcreate", "--type", "thin", "--virtualsize", "4g", "--thinpool", "pool", "--name", "one", "smoke")
	do(t, "", "mkfs.xfs", "-q", "-K", "/dev/smoke/one")
	dir := mounted(t, "/dev/smoke/one", "xfs", "")
	put(t, filepath.Join(dir, "a"), "before")
	do(t, "", "lvcreate", "--snapshot", "--name", "two", "--setactivationskip", "n", "smoke/one")
	put(t, filepath.Join(dir, "a"), "after")
	do(t, "", "lvchange", "--activate", "y", "--ignoreactivationskip", "smoke/two")
	holds(t, filepath.Join(mounted(t, "/dev/smoke/two", "xfs", "nouuid"), "a"), "before")
	holds(t, filepath.Join(dir, "a"), "after")
}

// LUKS2: the correct key opens it, another one does not, and the disk does not show the contents.
func TestEncryption(t *testing.T) {
	disk := inside.Disk(t, "first")
	do(t, "right", "cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2",
		"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-", disk)
	wrong := exec.Command("cryptsetup", "open", "--key-file", "-", disk, "smoke")
	wrong.Stdin = strings.NewReader("wrong")
	if err := wrong.Run(); err == nil {
		t.Fatal("the wrong key opened it")
	}
	do(t, "right", "cryptsetup", "open", "--key-file", "-", disk, "smoke")
	after(t, "cryptsetup", "close", "smoke")
	do(t, "", "mkfs.ext4", "-q", "-E", "lazy_itable_init=1,nodiscard", "/dev/mapper/smoke", "64m")
	const text = "nobody else is to read this"
	dir := mounted(t, "/dev/mapper/smoke", "ext4", "")
	put(t, filepath.Join(dir, "a"), text)
	unix.Sync()
	holds(t, filepath.Join(dir, "a"), text)
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	raw := make([]byte, 96*mib) // its header takes 16 MiB
	if _, err := io.ReadFull(f, raw); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, []byte(text)) {
		t.Error("the disk shows it")
	}
}

// A folder with a separate project is full at its limit, and the folder next to it is not.
func TestProjectQuota(t *testing.T) {
	disk := inside.Disk(t, "first")
	do(t, "", "mkfs.xfs", "-q", "-K", disk)
	dir := mounted(t, disk, "xfs", "prjquota")
	limited, free := filepath.Join(dir, "limited"), filepath.Join(dir, "free")
	for _, d := range []string{limited, free} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	do(t, "", "xfs_quota", "-x", "-c", "project -s -p "+limited+" 42", "-c", "limit -p bhard=16m 42", dir)
	big := make([]byte, 32*mib)
	if err := os.WriteFile(filepath.Join(limited, "a"), big, 0o600); !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		t.Errorf("32 MiB into 16 MiB: %v", err)
	}
	if err := os.WriteFile(filepath.Join(free, "a"), big, 0o600); err != nil {
		t.Errorf("the folder beside it: %v", err)
	}
}

// The kernel's NFS server, and a client of it.
func TestNFS(t *testing.T) {
	served := t.TempDir()
	dir := inside.Serve(t, served)
	put(t, filepath.Join(dir, "a"), "there and back")
	holds(t, filepath.Join(served, "a"), "there and back")
}

// A group with a limit of 4 MiB/s takes two seconds for 8 MiB, however fast the machine is.
func TestSpeedLimit(t *testing.T) {
	disk := inside.Disk(t, "second")
	var at unix.Stat_t
	if err := unix.Stat(disk, &at); err != nil {
		t.Fatal(err)
	}
	group := "/sys/fs/cgroup/smoke"
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	after(t, "rmdir", group)
	write := func() time.Duration {
		began := time.Now()
		do(t, "", "sh", "-c", "echo $$ >"+group+"/cgroup.procs && exec dd if=/dev/zero of="+disk+" bs=1M count=8 oflag=direct")
		return time.Since(began)
	}
	write() // without a limit, to warm up the disk
	put(t, group+"/io.max", fmt.Sprintf("%d:%d wbps=%d", unix.Major(at.Rdev), unix.Minor(at.Rdev), 4*mib))
	if took := write(); took < 1800*time.Millisecond {
		t.Errorf("8 MiB at 4 MiB/s took %s", took)
	}
}
