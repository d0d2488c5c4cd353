package lab

import (
	"slices"
	"testing"
	"time"
)

// A longer form has everything that a shorter one has. `make lab` has each package, and only `make lab-long` has the
// whole table.
func TestForms(t *testing.T) {
	var before []Entry
	for _, form := range []struct {
		name, lab, test string
		packages        bool // whether each package runs in this form
	}{{"lab-short", "", "", false}, {"lab", "1", "", true}, {"lab-long", "", "1", true}} {
		t.Setenv("LAB_LONG", form.lab)
		t.Setenv("DROVER_TEST_LONG", form.test)
		now := chosen("", "")
		for _, e := range Table() {
			runs := func(all []Entry) bool {
				return slices.ContainsFunc(all, func(o Entry) bool { return o.Package == e.Package && o.Run == e.Run })
			}
			if runs(before) && !runs(now) {
				t.Errorf("%s has no %s %s, and a shorter form has", form.name, e.Package, e.Run)
			}
			if form.packages && !slices.ContainsFunc(now, func(o Entry) bool { return o.Package == e.Package }) {
				t.Errorf("%s runs nothing of %s", form.name, e.Package)
			}
		}
		if len(now) <= len(before) || form.test == "" && len(now) == len(Table()) {
			t.Errorf("%s runs %d entries of %d, and a shorter form %d", form.name, len(now), len(Table()), len(before))
		}
		before = now
	}
	if len(before) != len(Table()) {
		t.Errorf("the longest form runs %d entries of %d", len(before), len(Table()))
	}
}

// A selected test runs once, with the options of every entry of its package.
func TestOneOfThem(t *testing.T) {
	one := chosen("backends/loop", "^TestC1Encrypted$")
	if len(one) != 1 || one[0].Run != "^TestC1Encrypted$" || !slices.Contains(one[0].Modules, "dm-crypt") || one[0].Within < 20*time.Minute {
		t.Errorf("%+v", one)
	}
}
