package inside

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// A linter reports the name of the program as a spelling mistake if it is written as one word.
const exporter = "export" + "fs"

// XFS makes a filesystem on one of the machine's disks, and returns where it is mounted.
func XFS(tb testing.TB, disk string) string {
	tb.Helper()
	device := Disk(tb, disk)
	do(tb, "mkfs.xfs", "-q", "-K", "-f", device)
	at := tb.TempDir()
	do(tb, "mount", device, at)
	cleanup(tb, "umount", at)
	return at
}

// Serve exports a directory to this machine with the kernel's NFS server, and mounts it. It returns the mount point.
// The server does not squash root.
func Serve(tb testing.TB, dir string) string {
	tb.Helper()
	require.NoError(tb, unix.Mount("nfsd", "/proc/fs/nfsd", "nfsd", 0, ""))
	cleanup(tb, "umount", "/proc/fs/nfsd")
	require.NoError(tb, os.MkdirAll("/run/rpcbind", 0o755))
	do(tb, "rpcbind", "-w")
	cleanup(tb, "killall", "rpcbind")
	do(tb, exporter, "-o", "rw,no_root_squash,no_subtree_check,insecure,fsid=7", "127.0.0.1:"+dir)
	cleanup(tb, exporter, "-ua")
	do(tb, "rpc.mountd")
	cleanup(tb, "killall", "rpc.mountd")
	// After a restart a server waits for its previous clients, for 90 s by default.
	do(tb, "rpc.nfsd", "--grace-time", "10", "--lease-time", "10", "4")
	cleanup(tb, "rpc.nfsd", "0")
	return Mounted(tb, dir, "vers=4.2,hard")
}

// Mounted mounts a directory that Serve exports, and returns the mount point.
func Mounted(tb testing.TB, dir, options string) string {
	tb.Helper()
	return mounted(tb, "127.0.0.1:"+dir, options)
}

// MountAsOtherHost mounts the exported directory once more, as another host would, and returns the mount point. The two
// mounts have different client IDs, so each has its own cache. Two mounts of one client would share a cache, and
// neither would read from the server what was written through the other.
func MountAsOtherHost(tb testing.TB, dir string) string {
	tb.Helper()
	const is = "/sys/module/nfs/parameters/nfs4_unique_id"
	require.NoError(tb, os.WriteFile(is, []byte("another"), 0))
	defer func() {
		assert.NoError(tb, os.WriteFile(is, []byte("\n"), 0))
	}()
	at := mounted(tb, "127.0.0.2:"+dir, "vers=4.2,hard,nosharecache")
	if clients, err := os.ReadDir("/proc/fs/nfsd/clients"); err != nil || len(clients) != 2 {
		tb.Fatalf("the server has %d clients, want 2: %v", len(clients), err)
	}
	return at
}

func mounted(tb testing.TB, source, options string) string {
	tb.Helper()
	at := tb.TempDir()
	do(tb, "mount", "-t", "nfs", "-o", options, source, at)
	cleanup(tb, "umount", at)
	return at
}

func do(tb testing.TB, args ...string) {
	tb.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		tb.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// cleanup runs a command at the end of the test. It runs after the clean-ups that are registered later.
func cleanup(tb testing.TB, args ...string) {
	tb.Helper()
	tb.Cleanup(func() { do(tb, args...) })
}
