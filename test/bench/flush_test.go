package bench

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// An event is a flush that a process requested, or a write to a position in a file, for which a later flush waits.
type event struct {
	call    string // fsync, fdatasync, btrfs's ioctl; pwrite64
	path    string // path of the file
	off, n  int64  // of a write, in bytes
	isFlush bool
}

// A trace is what strace(1) saw a process do. Flushes and forks are counted with it, since the kernel counts neither
// for a process.
type trace struct {
	events  []event // in the order in which they happened
	forks   []string
	renames int
}

// watched has the system calls that wait for a disk, those that make a process, the one with which bbolt writes, and
// the one with which a file or folder gets its name.
const watched = "fsync,fdatasync,sync,syncfs,sync_file_range,msync,ioctl,fork,vfork,clone,clone3,execve,pwrite64,renameat"

// traced runs do and returns what the processes did meanwhile, by process ID.
func traced(tb testing.TB, do func(), pids ...int) map[int]trace {
	tb.Helper()
	var stops []func() string
	for _, pid := range pids {
		stops = append(stops, attach(tb, pid))
	}
	do()
	out := map[int]trace{}
	for i, pid := range pids {
		out[pid] = parseTrace(stops[i]())
	}
	return out
}

// attach starts to trace a process with all its threads. The returned function ends the trace and returns the output
// of strace.
func attach(tb testing.TB, pid int) (stop func() string) {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "trace")
	cmd := exec.Command("strace", "-f", "-y", "-s", "0", "-o", file, "-e", "trace="+watched, "-p", fmt.Sprint(pid))
	said, err := cmd.StderrPipe()
	require.NoError(tb, err)
	require.NoErrorf(tb, cmd.Start(), "flushes are counted by strace (scripts/deps.sh test installs it)")
	lines := bufio.NewScanner(said)
	if !lines.Scan() || !strings.Contains(lines.Text(), "attached") {
		tb.Fatalf("strace: %q", lines.Text())
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines.Scan() { // each thread that starts or ends adds a line
		}
	}()
	return func() string {
		_ = cmd.Process.Signal(unix.SIGINT)
		<-read
		_ = cmd.Wait() // its exit status is that of the signal
		text, err := os.ReadFile(file)
		require.NoError(tb, err)
		return string(text)
	}
}

var (
	flushLine  = regexp.MustCompile(`^\d+ +(fsync|fdatasync|sync|syncfs|sync_file_range|msync)\((?:\d+<([^>]*)>)?`)
	btrfsLine  = regexp.MustCompile(`^\d+ +ioctl\(\d+<([^>]*)>, (BTRFS_IOC_START_SYNC|BTRFS_IOC_SYNC)`)
	writeLine  = regexp.MustCompile(`^\d+ +pwrite64\(\d+<([^>]*)>, ""\.*, (\d+), (\d+)`)
	renameLine = regexp.MustCompile(`^\d+ +renameat\(`)
	forkLine   = regexp.MustCompile(`^\d+ +(fork|vfork|clone|clone3|execve)\(`)
)

func parseTrace(text string) (t trace) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if m := flushLine.FindStringSubmatch(line); m != nil {
			t.events = append(t.events, event{call: m[1], path: m[2], isFlush: true})
		} else if m := btrfsLine.FindStringSubmatch(line); m != nil {
			t.events = append(t.events, event{call: m[2], path: m[1], isFlush: true})
		} else if m := writeLine.FindStringSubmatch(line); m != nil {
			n, _ := strconv.ParseInt(m[2], 10, 64)
			off, _ := strconv.ParseInt(m[3], 10, 64)
			t.events = append(t.events, event{call: "pwrite64", path: m[1], n: n, off: off})
		} else if renameLine.MatchString(line) {
			t.renames++
		} else if forkLine.MatchString(line) && !strings.Contains(line, "CLONE_THREAD") {
			t.forks = append(t.forks, line)
		}
	}
	return t
}

// flushes counts the flushes of a process by what was flushed, without the names of single datasets.
func (t trace) flushes() map[string]int {
	n := map[string]int{}
	for _, e := range t.events {
		if !e.isFlush {
			continue
		}
		what := filepath.Base(e.path)
		if dir := filepath.Base(filepath.Dir(e.path)); dir == "incoming" || dir == "datasets" || dir == "deleting" {
			what = dir + "/<dataset>"
		}
		n[e.call+" "+what]++
	}
	return n
}

// One create forks nothing, flushes the pool once and the store once. One remove forks nothing and flushes the store
// once. A commit of the store is two fdatasync: one of the pages, and one of the meta page that makes them valid
// (bbolt). A record next to the data is written each time, with one exception: a create renames its image and then
// the dataset, and a remove renames the new record after it has answered.
func TestFlushesAndForksOfCreateAndRemove(t *testing.T) {
	for _, c := range []struct{ fs, pool string }{
		{"xfs", "fsync incoming/<dataset>"},
		{"btrfs", "BTRFS_IOC_START_SYNC incoming/<dataset>"},
	} {
		t.Run(c.fs, func(t *testing.T) {
			h := host.Start(t, host.Options{Pool: c.fs})
			p := dial(h.Socket())
			t.Cleanup(p.close)
			create := func(name string) { p.must(t, "POST", "/VolumeDriver.Create", named(name)) }
			remove := func(name string) { p.must(t, "POST", "/VolumeDriver.Remove", named(name)) }
			create("first") // makes the template, which forks
			const n = 20
			made := traced(t, func() {
				for i := range n {
					create(fmt.Sprint("vol", i))
				}
			}, h.PID())[h.PID()]
			wantTrace(t, "create", made, 2*n, map[string]int{c.pool: n, "fdatasync store.db": 2 * n})
			gone := traced(t, func() {
				for i := range n {
					remove(fmt.Sprint("vol", i))
				}
				h.Stop(t) // which waits for the work after the answer
			}, h.PID())[h.PID()]
			wantTrace(t, "remove", gone, n, map[string]int{"fdatasync store.db": 2 * n})
		})
	}
}

// wantTrace compares a trace. The agent writes its copy of the records from time to time, for many of them together,
// so the test only requires that it is not written for each one.
func wantTrace(t *testing.T, what string, got trace, renames int, want map[string]int) {
	t.Helper()
	if got.renames < renames || got.renames > renames+2 { // a busy agent renames a file of its own now and then
		t.Errorf("%s renames %d times, want %d", what, got.renames, renames)
	}
	if len(got.forks) > 0 {
		t.Errorf("%s forks: %v", what, got.forks)
	}
	n := got.flushes()
	const copies = "fdatasync agent.db"
	if n[copies] > 10 {
		t.Errorf("%s flushes the agent's copies %d times", what, n[copies])
	}
	delete(n, copies)
	if fmt.Sprint(n) != fmt.Sprint(want) {
		t.Errorf("%s flushes %v, want %v", what, n, want)
	}
}

type request struct{ Name, ID string }

func named(name string) request { return request{Name: name} }
