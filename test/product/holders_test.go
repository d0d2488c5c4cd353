package product

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
)

// TestHoldersAreNamed: the refusal of a volume in use names the container, a process with an open file and a mount in
// another mount namespace, each with a command. These commands free the volume.
func TestHoldersAreNamed(t *testing.T) {
	w := begin(t, host.Options{}, engine.Options{})
	t.Setenv("DOCKER_HOST", w.e.Host)
	w.run(t, "web", "held")
	at := w.inspect(t, "held").Mountpoint
	id := w.docker(t, "inspect", "-f", "{{.Id}}", "web")[:12]
	w.wantRefusal(t, "held", "docker container web ("+id+") at /data: process ", "; to free it: docker stop web\n")

	want := "docker container web (" + id + ") at /data: process "
	if out := w.drover(t, "volume", "inspect", "held"); !strings.Contains(out, want) {
		t.Errorf("volume inspect does not show %q:\n%s", want, out)
	}

	// If no engine answers, the ID must suffice.
	t.Setenv("DOCKER_HOST", "unix://"+filepath.Join(t.TempDir(), "none.sock"))
	w.wantRefusal(t, "held", "docker container "+id+" at /data: process ", "; to free it: docker stop "+id+"\n")
	t.Setenv("DOCKER_HOST", w.e.Host)

	file := start(t, "sh", "-c", `exec 9>"$1/open" && echo ready && exec sleep infinity`, "sh", at)
	hidden := t.TempDir()
	mounted := start(t, "unshare", "--mount", "sh", "-c",
		`mount --bind "$1" "$2" && echo ready && exec sleep infinity`, "sh", at, hidden)
	w.wantRefusal(t, "held", "docker container web ("+id+")",
		fmt.Sprintf("process %d (sleep, root) has open open; to free it: end process %d\n", file, file),
		fmt.Sprintf("a mount at %s in mount namespace %d of process %d (sleep, root); to free it: umount -N %d %s\n",
			hidden, namespace(t, mounted), mounted, mounted, hidden))

	w.docker(t, "stop", "web")
	w.docker(t, "rm", "web")
	w.refused(t, fmt.Sprintf("process %d (sleep, root) has open open (to free it: end process %d)", file, file), "volume", "rm", "held")
	host.Await(t, "drover doctor names the process", func() error {
		if out := w.h.Exec(t, "doctor", "-v").Out; !strings.Contains(out, fmt.Sprintf("process %d (sleep, root) has open open", file)) {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	w.wantRefusal(t, "held", fmt.Sprintf("process %d (sleep, root) has open open", file), fmt.Sprintf("umount -N %d %s\n", mounted, hidden))
	for _, free := range [][]string{
		{"umount", "-N", strconv.Itoa(mounted), hidden}, {"kill", strconv.Itoa(file)},
	} {
		if out, err := exec.Command(free[0], free[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v, %s", free, err, out)
		}
	}
	host.Await(t, "the volume is free", func() error {
		if r := w.h.Exec(t, "volume", "rm", "held"); r.Exit != 0 {
			return fmt.Errorf("%s", r.Err)
		}
		return nil
	})
}

// wantRefusal fails unless drover volume rm fails, and prints all of words.
func (w *world) wantRefusal(t *testing.T, volume string, words ...string) {
	t.Helper()
	r := w.h.Exec(t, "volume", "rm", volume)
	for _, word := range words {
		if r.Exit != 1 || !strings.Contains(r.Err, word) {
			t.Errorf("drover volume rm: exit %d, and no %q in:\n%s", r.Exit, word, r.Err)
		}
	}
}

// start starts a program that ends with the test, waits until it prints a line, and returns its PID.
func start(t *testing.T, program string, args ...string) int {
	t.Helper()
	c := exec.Command(program, args...)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill() // it may have ended
		_ = c.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%s printed %q: %v", program, line, err)
	}
	return c.Process.Pid
}

// namespace returns the inode of the mount namespace of a process.
func namespace(t *testing.T, pid int) (inode uint64) {
	t.Helper()
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err == nil {
		_, err = fmt.Sscanf(link, "mnt:[%d]", &inode)
	}
	if err != nil {
		t.Fatal(err)
	}
	return inode
}
