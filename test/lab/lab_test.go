package lab

import (
	"cmp"
	"fmt"
	"os"
	"path"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/lab/inside"
	"github.com/droverhq/drover/test/require"
)

// TestLab runs the table in two machines, each of which takes the next entry, and has a subtest for each test in
// them. LAB_LONG adds the long entries, as `make lab` does, and DROVER_TEST_LONG adds all entries, as `make lab-long`
// does. LAB_ONLY selects those of one package, long or not. LAB_RUN selects other tests than those of the entry, and
// LAB_BENCH selects benchmarks instead. LAB_RACE enables the race detector.
func TestLab(t *testing.T) {
	entries := chosen(os.Getenv("LAB_ONLY"), os.Getenv("LAB_RUN"))
	if len(entries) == 0 {
		t.Fatalf("LAB_ONLY=%s: the table has no such package", os.Getenv("LAB_ONLY"))
	}
	dir := t.TempDir()
	var disks []Disk
	for _, e := range entries {
		if binary := path.Join(dir, e.binary()); !there(binary) {
			args := []string{"test", "-c", "-tags", "lab", "-o", binary, "./" + e.Package}
			if race() {
				args = slices.Insert(args, 1, "-race")
			}
			build(t, args...)
		}
		if e.Layer != "" {
			share(t, runScript(t, "lab-"+e.Layer+".sh"), path.Join(dir, e.Layer+".tar"))
		}
		for _, d := range e.Disks {
			i := slices.IndexFunc(disks, func(o Disk) bool { return o.Name == d.Name })
			if i < 0 {
				disks = append(disks, d)
			} else {
				disks[i].Size = max(disks[i].Size, d.Size)
			}
		}
	}
	machines := make([]*VM, min(len(entries), 2))
	for i := range machines {
		machines[i] = begin(t, Options{Dir: dir, Disks: disks})
	}
	next := make(chan Entry, len(entries))
	for _, e := range entries {
		next <- e
	}
	close(next)
	var all sync.WaitGroup
	for i, vm := range machines {
		vm.up(t)
		if i == 0 {
			t.Run("machine", vm.tellsHowCommandsEnd)
		}
		all.Go(func() {
			for vm.proc.Running() {
				e, more := <-next
				if !more {
					return
				}
				t.Run(e.Package, func(t *testing.T) { vm.entry(t, e) })
			}
		})
	}
	all.Wait()
	for e := range next {
		t.Errorf("%s %s did not run: the machines are gone", e.Package, e.Run)
	}
}

func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// share copies a file to where the machine finds it.
func share(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	require.NoError(t, err)
}

// all reports whether the long entries run as well.
func all() bool { return os.Getenv("LAB_LONG") != "" || long.Enabled() }

func chosen(only, run string) []Entry {
	var entries []Entry
	for _, e := range Table() {
		switch {
		case only != "" && e.Package != only, only == "" && (e.Long && !all() || e.Longest && !long.Enabled()):
			continue
		}
		if i := slices.IndexFunc(entries, func(o Entry) bool { return run != "" && o.Package == e.Package }); i >= 0 {
			entries[i].with(e) // once is enough
			continue
		}
		if run != "" {
			e.Run, e.Skip = run, ""
		}
		entries = append(entries, e)
	}
	// The longest entries come first, so that one machine has none of them left when the other one is done.
	slices.SortStableFunc(entries, func(a, b Entry) int { return cmp.Compare(b.within(), a.within()) })
	return entries
}

// with adds the programs, modules, disks and time of another entry of the same package.
func (e *Entry) with(o Entry) {
	e.Layer, e.Within = cmp.Or(e.Layer, o.Layer), max(e.within(), o.within())
	e.Modules, e.Disks = slices.Concat(e.Modules, o.Modules), slices.Concat(e.Disks, o.Disks)
}

// tellsHowCommandsEnd tests what everything else depends on.
func (vm *VM) tellsHowCommandsEnd(t *testing.T) {
	var said []string
	keep := func(s string) { said = append(said, s) }
	exit, err := vm.Run(t.Context(), inside.Command{Args: []string{"sh", "-c", "echo one; echo two >&2; exit 7"}, Seconds: 60}, keep)
	if exit != 7 || err != nil || !slices.Equal(said, []string{"one", "two"}) {
		t.Errorf("it said %q and ended with %d, %v", said, exit, err)
	}
	if _, err := vm.Run(t.Context(), inside.Command{Args: []string{"no-such-program"}, Seconds: 60}, keep); err == nil {
		t.Error("a program that is not there is no error")
	}
	_, err = vm.Run(t.Context(), inside.Command{Args: []string{"sh", "-c", "trap '' QUIT; while :; do sleep 600; done"}, Seconds: 1}, keep)
	if err == nil || !strings.Contains(err.Error(), "killed after 1 s") {
		t.Errorf("what hangs ended with %v", err)
	}
	if console := vm.Console(100); !strings.Contains(console, "Blocked State") {
		t.Errorf("the console does not say what was blocked:\n%s", console)
	}
	if exit, err := vm.Run(t.Context(), inside.Command{Args: []string{"pgrep", "sleep"}, Seconds: 60}, keep); exit != 1 || err != nil {
		t.Errorf("what hung is still there: pgrep ended with %d, %v", exit, err)
	}
}

// entry runs the tests of an entry, and reports the result of each one as a subtest.
func (vm *VM) entry(t *testing.T, e Entry) {
	// Each page of a program that runs from a share is read and translated again.
	program := path.Join("/run", e.binary())
	before := [][]string{{"cp", path.Join(inside.Share, e.binary()), program}}
	if e.Layer != "" {
		before = append(before, []string{"tar", "-xf", path.Join(inside.Share, e.Layer+".tar"), "-C", "/"}, []string{"ldconfig"})
	}
	for _, m := range e.Modules {
		before = append(before, []string{"modprobe", m})
	}
	for _, args := range before {
		if exit, err := vm.Run(t.Context(), inside.Command{Args: args, Seconds: 60}, func(s string) { t.Log(s) }); err != nil || exit != 0 {
			t.Fatalf("%s: exit %d, %v", strings.Join(args, " "), exit, err)
		}
	}
	// The time limit of the test program expires first, and reports which test was running.
	limit := e.within()
	if race() {
		limit *= 4
	}
	args := []string{program, "-test.v=test2json", "-test.timeout=" + limit.String()}
	if e.Run != "" {
		args = append(args, "-test.run="+e.Run)
	}
	if e.Skip != "" {
		args = append(args, "-test.skip="+e.Skip)
	}
	if bench := os.Getenv("LAB_BENCH"); bench != "" {
		args = append(args, "-test.run=^$", "-test.benchtime=1x", "-test.bench="+bench)
	}
	var env []string
	if long.Enabled() {
		env = append(env, "DROVER_TEST_LONG=1")
	}
	command := inside.Command{
		Args: args, Dir: path.Join(inside.Source, e.Package), Env: env, Seconds: int((limit + 20*time.Second).Seconds()),
	}
	var r reader
	began, busy := time.Now(), vm.busy()
	exit, err := vm.Run(t.Context(), command, func(s string) {
		r.line(s)
		if testing.Verbose() || strings.HasPrefix(s, "Benchmark") {
			fmt.Printf("    %s | %s\n", e.Package, strings.ReplaceAll(s, "\x16", ""))
		}
	})
	t.Logf("took %s, %s of a processor", time.Since(began).Round(100*time.Millisecond), vm.busy()-busy)
	if err == nil {
		vm.empties(t, e.Disks)
	}
	r.all.verdict = "PASS"
	if os.Getenv("LAB_BENCH") == "" {
		r.all.show(t) // the end of a benchmark is not reported
	}
	switch {
	case err != nil:
		assert.NoError(t, vm.proc.End(unix.SIGKILL, time.Minute))
		t.Errorf("%v\n%s\nits console:\n%s", err, tail(r.all.output, 40), vm.Console(60))
	case len(r.all.sub) == 0:
		t.Errorf("no test ran: exit %d\n%s", exit, tail(r.all.output, 40))
	case exit != 0 && !r.all.failed():
		t.Errorf("exit %d, though no test failed\n%s", exit, tail(r.all.output, 40))
	}
}

// empties returns the space that disks used to the host. A disk in use still keeps its space.
func (vm *VM) empties(t *testing.T, disks []Disk) {
	for _, d := range disks {
		discard := inside.Command{Args: []string{"sh", "-c", "blkdiscard $" + inside.Variable(d.Name)}, Seconds: 60}
		if exit, err := vm.Run(t.Context(), discard, func(s string) { t.Log(s) }); exit != 0 || err != nil {
			t.Logf("disk %s: exit %d, %v", d.Name, exit, err)
		}
	}
}

// busy is the time for which the machine has used a processor. Unlike the elapsed time, it hardly depends on other
// work.
func (vm *VM) busy() time.Duration {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", vm.proc.PID()))
	var user, system time.Duration
	_, rest, _ := strings.Cut(string(b), ") ")
	if fields := strings.Fields(rest); len(fields) > 12 {
		user, _ = time.ParseDuration(fields[11] + "0ms")
		system, _ = time.ParseDuration(fields[12] + "0ms")
	}
	return user + system
}

// show makes a subtest for each result.
func (r *result) show(t *testing.T) {
	for _, s := range r.sub {
		t.Run(s.name, func(t *testing.T) {
			s.show(t)
			switch s.verdict {
			case "FAIL":
				t.Errorf("failed in the lab\n%s", tail(s.output, 200))
			case "":
				t.Errorf("did not end in the lab\n%s", tail(s.output, 200))
			case "SKIP":
				t.Logf("only in the long form\n%s", tail(s.output, 5))
			}
		})
	}
}

func tail(lines []string, n int) string {
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// program is the output of a test program with -test.v=test2json: some tests pass, one fails, one prints a line that
// looks like a result, one has a slash in its name, and one does not end.
const program = "\x16=== RUN   TestA\n" +
	"\x16=== RUN   TestA/one\n" +
	"    a_test.go:1: wrong\n" +
	"--- PASS: TestZ (0.00s)\n" +
	"\x16=== RUN   TestA/two_words\n" +
	"no newline\x16=== NAME  TestA/one\n" +
	"\x16--- FAIL: TestA (0.02s)\n" +
	"\x16    --- FAIL: TestA/one (0.00s)\n" +
	"\x16    --- PASS: TestA/two_words (0.01s)\n" +
	"\x16=== NAME  \n" +
	"\x16=== RUN   TestC\n" +
	"\x16=== RUN   TestC/a/part\n" +
	"\x16--- PASS: TestC (0.02s)\n" +
	"\x16    --- PASS: TestC/a/part (0.01s)\n" +
	"\x16=== RUN   TestB\n" +
	"panic: test timed out\n"

func TestResults(t *testing.T) {
	var r reader
	for s := range strings.Lines(program) {
		r.line(strings.TrimSuffix(s, "\n"))
	}
	want := []*result{
		{name: "TestA", verdict: "FAIL", sub: []*result{
			{name: "one", verdict: "FAIL", output: []string{"    a_test.go:1: wrong", "--- PASS: TestZ (0.00s)"}},
			{name: "two_words", verdict: "PASS", output: []string{"no newline"}},
		}},
		{name: "TestC", verdict: "PASS", sub: []*result{
			{name: "a", verdict: "PASS", sub: []*result{{name: "part", verdict: "PASS"}}},
		}},
		{name: "TestB", output: []string{"panic: test timed out"}},
	}
	if !reflect.DeepEqual(r.all.sub, want) {
		for _, s := range r.all.sub {
			t.Errorf("%+v", *s)
		}
	}
	for i, failed := range []bool{true, false, true} {
		if r.all.sub[i].failed() != failed {
			t.Errorf("%s failed: %v", r.all.sub[i].name, !failed)
		}
	}
	if passed := r.all.sub[0].sub[1]; passed.failed() {
		t.Errorf("%s failed", passed.name)
	}
}

// A name must stand for one package with one set of options: a second entry with that name would hide the first one.
func TestTable(t *testing.T) {
	var disks, binaries []string
	for _, e := range Table() {
		if b := e.binary() + " " + e.Run; slices.Contains(binaries, b) {
			t.Errorf("%s is there twice", e.Package)
		} else {
			binaries = append(binaries, b)
		}
		for _, d := range e.Disks {
			if !slices.Contains(disks, d.Name) {
				disks = append(disks, d.Name)
			}
		}
	}
	if len(disks) > 20 {
		t.Errorf("%d disks, and the machine has room for 20: name some alike", len(disks))
	}
}
