package agenttest

import (
	"bufio"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/require"
)

// StartContainer mounts a folder in a new mount namespace, as a container does, until end is called.
func StartContainer(t *testing.T, path string) (end func()) {
	t.Helper()
	return runInNamespace(t, path, `mount --bind "$0" "$1" && echo ready && exec sleep infinity`)
}

// StartWithCopy starts a process with a copy of all mounts of the host in a new mount namespace, until end is called.
func StartWithCopy(t *testing.T) (end func()) {
	t.Helper()
	return runInNamespace(t, "", `echo ready && exec sleep infinity`)
}

// startWithHandedFile starts a process of the host that has a file of the dataset on path open. It got the file from a
// container that has ended, so no mount namespace shows the mount of the file.
func startWithHandedFile(t *testing.T, path string) (end func()) {
	t.Helper()
	return runInNamespace(t, path, `mount --bind "$0" "$1" && exec 3>"$1/handed" &&
		exec nsenter --mount="/proc/$2/ns/mnt" sh -c "echo ready && exec sleep infinity"`)
}

// Holders are ways to use a mounted dataset without Drover.
var Holders = map[string]func(t *testing.T, path string) (end func()){
	"container": StartContainer, "handed over": startWithHandedFile,
}

// runInNamespace runs a shell script in a new mount namespace until end is called. It returns once the script has
// written a line.
func runInNamespace(t *testing.T, path, script string) (end func()) {
	t.Helper()
	cmd := exec.Command("sh", "-c", script, path, t.TempDir(), strconv.Itoa(os.Getpid()))
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	require.NoError(t, err)
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	ended := false
	end = func() {
		if !ended {
			ended = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(end)
	return end
}
