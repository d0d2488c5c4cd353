package hand

import (
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/inuse"
)

// apart starts a process in its own mount namespace, with two to the power of doublings more mounts than
// the host, and returns its PID.
func apart(t *testing.T, doublings string) int {
	t.Helper()
	const script = `mount -t tmpfs -o size=64k none /mnt && mkdir /mnt/directory || exit
		i=0; while [ $i -lt "$0" ]; do mount --rbind /mnt /mnt/directory || exit; i=$((i+1)); done
		echo ready; exec cat`
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", script, doublings)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

// seen looks at all processes, with this much time for large ones, and returns what it found about the given PIDs.
func seen(t *testing.T, within time.Duration, pids ...int) (found []*process) {
	t.Helper()
	tool := New(Options{Run: t.TempDir(), Clock: clock.System{}})
	w, err := tool.list(nil)
	if err != nil {
		t.Fatal(err)
	}
	tool.examineAll(w, within)
	for _, pid := range pids {
		for _, p := range w.procs {
			if p.PID == pid {
				found = append(found, p)
			}
		}
	}
	if len(found) != len(pids) {
		t.Fatalf("%d of %d processes were seen", len(found), len(pids))
	}
	return found
}

// A large mount table delays no list of all processes. Its process is examined if there is time for it, and
// is a possible holder otherwise.
func TestLargeMountTable(t *testing.T) {
	large, small := apart(t, "11"), apart(t, "1")
	for within, examined := range map[time.Duration]bool{0: false, time.Minute: true} {
		p := seen(t, within, large, small)
		if p[0].first != nil || !p[0].isLarge() {
			t.Error("the list has read the large table")
		}
		if got := p[0].unexamined == nil; got != examined || !examined && !errors.Is(p[0].unexamined, inuse.ErrOutOfTime) {
			t.Errorf("within %v: %v", within, p[0].unexamined)
		}
		if examined && (len(p[0].found.Views) == 0 || len(p[0].found.Views[0].Mounts) < 2048) {
			t.Error("the large table was not read")
		}
		if p[1].first == nil || p[1].unexamined != nil {
			t.Errorf("the small table was not read: %v", p[1].unexamined)
		}
	}
}

// A process with few descriptors and very many mappings is large: it is not examined while a fence waits.
func TestManyMappings(t *testing.T) {
	const n = 60_000
	page := os.Getpagesize()
	b, err := unix.Mmap(-1, 0, n*page, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	for i := 0; i < n; i += 2 { // this splits the mapping
		if err := unix.Mprotect(b[i*page:(i+1)*page], unix.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	for within, examined := range map[time.Duration]bool{0: false, time.Minute: true} {
		p := seen(t, within, os.Getpid())
		if got := p[0].unexamined == nil; got != examined || !examined && !errors.Is(p[0].unexamined, inuse.ErrOutOfTime) {
			t.Errorf("within %v: %v", within, p[0].unexamined)
		}
	}
}
