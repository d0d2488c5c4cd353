package daemon

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write docs/metrics.md")

const page = "../../../../docs/metrics.md"

// TestPage compares the page of metrics with the code.
func TestPage(t *testing.T) {
	want := Markdown()
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(got), want); diff != "" {
		t.Errorf("docs/metrics.md is out of date: run go test ./cmd/drover/internal/daemon -update\n(-file +code):\n%s", diff)
	}
}

// TestNames checks the rules of Prometheus for names, and that labels are in the order in which they are exposed.
func TestNames(t *testing.T) {
	units := []string{"bytes", "seconds"}
	names := map[string]bool{}
	for _, f := range Families() {
		if names[f.name] {
			t.Errorf("%s is declared twice", f.name)
		}
		names[f.name] = true
		base := strings.TrimSuffix(f.name, "_total")
		if (base != f.name) != (f.kind == counter) {
			t.Errorf("%s is a %s: _total is the end of counters, and only of counters", f.name, f.kind)
		}
		end := base[strings.LastIndex(base, "_")+1:]
		if f.unit != "" && end != f.unit || f.unit == "" && slices.Contains(units, end) {
			t.Errorf("%s has the unit %q", f.name, f.unit)
		}
		if f.kind == histogram && f.unit != "seconds" || f.unit != "" && !slices.Contains(units, f.unit) {
			t.Errorf("%s: want a base unit, got %q", f.name, f.unit)
		}
		if !slices.IsSorted(f.labels) {
			t.Errorf("%s: the labels %v are not in order", f.name, f.labels)
		}
		if !strings.HasSuffix(f.help, ".") {
			t.Errorf("%s: the help is no sentence: %s", f.name, f.help)
		}
	}
}
