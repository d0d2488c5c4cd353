package lab

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

// The output of a test program with -test.v=test2json: a test that fails between two that do not, one that prints
// what it should not, one with a slash in its name, and one that does not end.
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
