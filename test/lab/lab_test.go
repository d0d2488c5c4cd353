package lab

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/lab/inside"
)

// TestLab runs the table in one boot, and has a subtest for each test in there. LAB_ONLY
// takes the entries of one package, long or not; LAB_RUN takes other tests than the entry says.
func TestLab(t *testing.T) {
	entries := chosen(os.Getenv("LAB_ONLY"), os.Getenv("LAB_RUN"))
	if len(entries) == 0 {
		t.Fatalf("LAB_ONLY=%s: the table has no such package", os.Getenv("LAB_ONLY"))
	}
	dir := t.TempDir()
	var disks []Disk
	for _, e := range entries {
		build(t, "test", "-c", "-tags", "lab", "-o", path.Join(dir, e.binary()), "./"+e.Package)
		for _, d := range e.Disks {
			i := slices.IndexFunc(disks, func(o Disk) bool { return o.Name == d.Name })
			if i < 0 {
				disks = append(disks, d)
			} else {
				disks[i].Size = max(disks[i].Size, d.Size)
			}
		}
	}
	vm := Boot(t, Options{Dir: dir, Disks: disks})
	for _, e := range entries {
		t.Run(e.Package, func(t *testing.T) { vm.entry(t, e) })
	}
}

func chosen(only, run string) []Entry {
	var entries []Entry
	for _, e := range Table() {
		switch {
		case only != "" && e.Package != only, only == "" && e.Long && !long.Enabled():
			continue
		}
		if run != "" {
			e.Run, e.Skip = run, ""
		}
		entries = append(entries, e)
	}
	return entries
}

// entry runs the tests of an entry, and tells how each ended as a subtest.
func (vm *VM) entry(t *testing.T, e Entry) {
	if !vm.proc.Running() {
		t.Fatal("the machine is gone: see the entry before")
	}
	for _, m := range e.Modules {
		if exit, err := vm.Run(t.Context(), inside.Command{Args: []string{"modprobe", m}, Seconds: 60}, func(s string) { t.Log(s) }); err != nil || exit != 0 {
			t.Fatalf("modprobe %s: exit %d, %v", m, exit, err)
		}
	}
	// Its own time limit comes first: then it says which test was running.
	limit := e.within()
	args := []string{path.Join(inside.Share, e.binary()), "-test.v=test2json", "-test.timeout=" + limit.String()}
	if e.Run != "" {
		args = append(args, "-test.run="+e.Run)
	}
	if e.Skip != "" {
		args = append(args, "-test.skip="+e.Skip)
	}
	var env []string
	if long.Enabled() {
		env = append(env, "DROVER_TEST_LONG=1")
	}
	command := inside.Command{
		Args: args, Dir: path.Join(inside.Source, e.Package), Env: env, Seconds: int((limit + 20*time.Second).Seconds()),
	}
	var r reader
	began := time.Now()
	exit, err := vm.Run(t.Context(), command, func(s string) {
		r.line(s)
		if testing.Verbose() {
			fmt.Printf("    | %s\n", strings.ReplaceAll(s, "\x16", ""))
		}
	})
	t.Logf("took %s", time.Since(began).Round(100*time.Millisecond))
	r.all.verdict = "PASS"
	r.all.show(t)
	switch {
	case err != nil:
		vm.proc.Signal(9)
		t.Errorf("%v\n%s\nits console:\n%s", err, tail(r.all.said, 40), vm.Console(60))
	case len(r.all.sub) == 0:
		t.Errorf("no test ran: exit %d\n%s", exit, tail(r.all.said, 40))
	case exit != 0 && !r.all.failed():
		t.Errorf("exit %d, though no test failed\n%s", exit, tail(r.all.said, 40))
	}
}

// show makes a subtest of each result.
func (r *result) show(t *testing.T) {
	for _, s := range r.sub {
		t.Run(s.name, func(t *testing.T) {
			s.show(t)
			switch s.verdict {
			case "FAIL":
				t.Errorf("failed in the lab\n%s", tail(s.said, 200))
			case "":
				t.Errorf("did not end in the lab\n%s", tail(s.said, 200))
			case "SKIP":
				t.Logf("only in the long form\n%s", tail(s.said, 5))
			}
		})
	}
}

func tail(lines []string, n int) string {
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
