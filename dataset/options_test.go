package dataset_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/dataset"
)

func TestParseOptions(t *testing.T) {
	mode := uint32(0o2750)
	got, err := dataset.ParseOptions(map[string]string{
		"profile": "gold", "size": "20GiB", "from": "db", "fs": "xfs", "pool": "fast", "owner": "999:998",
		"mode": "2750", "label.team": "a b", "label.io.drover/x": "", "protect": "", "readonly": "no",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := dataset.Options{
		Profile: "gold", Size: 20 << 30, From: "db", FS: "xfs", Pool: "fast",
		Owner: &dataset.Owner{UID: 999, GID: 998}, Mode: &mode,
		Labels: map[string]string{"team": "a b", "io.drover/x": ""}, Protect: true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if none, err := dataset.ParseOptions(nil); err != nil || !cmp.Equal(none, dataset.Options{}) {
		t.Errorf("no options gave %+v, %v", none, err)
	}
}

func TestParseOptionsRefuses(t *testing.T) {
	for in, part := range map[string]string{
		"sise=20GiB":                           "did you mean size? (available: from, fs, label.KEY",
		"Size=20GiB":                           "did you mean size?",
		"=x":                                   "unknown option",
		"size=20":                              "ambiguous",
		"size=0":                               `bad size "0": expected more than 0`,
		"size=0.0":                             `bad size "0.0": expected more than 0`,
		"size=":                                "bad size",
		"profile=Gold":                         "bad profile name",
		"pool=../x":                            "bad pool name",
		"from=":                                "option from is empty",
		"fs=zfs":                               "(available: ext4, xfs)",
		"owner=mysql":                          "UID:GID in numbers",
		"owner=1":                              "UID:GID",
		"owner=1:":                             "UID:GID",
		"owner=-1:0":                           "UID:GID",
		"owner=0:4294967295":                   "UID:GID", // to chown(2) it says "leave it"
		"owner=1:2:3":                          "UID:GID",
		"mode=0999":                            "octal",
		"mode=17777":                           "octal",
		"mode=":                                "octal",
		"mode=-750":                            "octal",
		"mode=0o750":                           "octal",
		"protect=maybe":                        "expected true or false",
		"readonly=TRUE":                        "expected true or false",
		"label.=x":                             "bad label key",
		"label.a b=x":                          "bad label key",
		"label.a=" + strings.Repeat("x", 1025): "too long",
		strings.Repeat("k", 1e5) + "=x":        "...",
	} {
		k, v, _ := strings.Cut(in, "=")
		got, err := dataset.ParseOptions(map[string]string{k: v, "readonly": ownOrTrue(k == "readonly", v)})
		refused(t, in, err, part)
		if !cmp.Equal(got, dataset.Options{}) {
			t.Errorf("%.40q: returned %+v beside its error", in, got)
		}
	}
}

// ownOrTrue returns v if the row of the table sets readonly itself, and otherwise "true". So every other row has a
// valid option beside the invalid one.
func ownOrTrue(own bool, v string) string {
	if own {
		return v
	}
	return "true"
}

func TestTooManyLabels(t *testing.T) {
	opts := map[string]string{}
	for i := range 64 {
		opts[fmt.Sprintf("label.k%d", i)] = "v"
	}
	if o, err := dataset.ParseOptions(opts); err != nil || len(o.Labels) != 64 {
		t.Fatalf("64 labels: %d, %v", len(o.Labels), err)
	}
	opts["label.more"] = "v"
	_, err := dataset.ParseOptions(opts)
	refused(t, "65 labels", err, "64 at most")
}

// ParseOptions accepts every option of the help, and the help describes its values correctly.
func TestOptionHelpIsTrue(t *testing.T) {
	sample := map[string]string{
		"NAME": "gold", "NODE": "host-b", "SIZE": "1GiB", "SOURCE": "db", "UID:GID": "1:2", "OCTAL": "0750", "VALUE": "v",
	}
	for _, h := range dataset.OptionHelp() {
		for _, alt := range strings.Split(h.Value, "|") {
			value, known := sample[alt]
			if !known {
				value = alt
			}
			if _, err := dataset.ParseOptions(map[string]string{strings.Replace(h.Name, "KEY", "k", 1): value}); err != nil {
				t.Errorf("%s=%s: %v", h.Name, value, err)
			}
		}
	}
}

func TestSameMistakeSameError(t *testing.T) {
	opts := map[string]string{"zzz": "1", "yyy": "2", "size": "3", "mode": "x", "fs": "y"}
	_, first := dataset.ParseOptions(opts)
	for range 50 {
		if _, err := dataset.ParseOptions(opts); err == nil || err.Error() != first.Error() {
			t.Fatalf("%v, then %v", first, err)
		}
	}
}

func TestApply(t *testing.T) {
	mode, old := uint32(0o750), uint32(0o700)
	base := dataset.Profile{
		Name: "gold", Size: 1 << 30, Pool: "slow",
		Filesystem: dataset.Filesystem{Type: "ext4", Mount: []string{"noatime"}},
		Owner:      &dataset.Owner{UID: 1, GID: 2, Mode: &old},
	}
	before := base.Clone()
	got := dataset.Options{Size: 2 << 30, Pool: "fast", FS: "xfs", Owner: &dataset.Owner{UID: 5, GID: 6}, Mode: &mode}.Apply(base)
	want := base.Clone()
	want.Size, want.Pool, want.Filesystem.Type = 2<<30, "fast", "xfs"
	want.Owner = &dataset.Owner{UID: 5, GID: 6, Mode: &mode}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	*got.Owner.Mode, got.Filesystem.Mount[0] = 0, "changed"
	if diff := cmp.Diff(before, base); diff != "" {
		t.Error("Apply changed the profile that it was given:", diff)
	}
	if mode != 0o750 {
		t.Error("Apply shares the options' mode with its result")
	}
	if diff := cmp.Diff(base, dataset.Options{}.Apply(base)); diff != "" {
		t.Error("no options changed the profile:", diff)
	}
	if o := (dataset.Options{Owner: &dataset.Owner{UID: 7, GID: 8}}).Apply(base).Owner; *o.Mode != old || o.UID != 7 {
		t.Errorf("an owner alone gave %+v", o)
	}
	if o := (dataset.Options{Mode: &mode}).Apply(dataset.Profile{}).Owner; o == nil || *o.Mode != mode {
		t.Errorf("a mode alone gave %+v", o)
	}
}

func FuzzParseOptions(f *testing.F) {
	for _, s := range [][2]string{
		{"size", "20GiB"}, {"owner", "1:2"}, {"mode", "0750"}, {"label.a", "b"}, {"protect", ""}, {"", ""},
		{"from", "f23c"}, {"pool", "fast"}, {"label.", "x"}, {"-o", "--"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, k, v string) {
		o, err := dataset.ParseOptions(map[string]string{k: v})
		if err != nil {
			refused(t, k+"="+v, err, "")
			return
		}
		o.Apply(dataset.Profile{})
	})
}

func TestCloneSharesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.Make[dataset.Profile]().Draw(t, "profile")
		q := p.Clone()
		if diff := cmp.Diff(p, q); diff != "" {
			t.Fatal(diff)
		}
		for i := range q.Filesystem.Mount {
			q.Filesystem.Mount[i] += "x"
			if p.Filesystem.Mount[i] == q.Filesystem.Mount[i] {
				t.Fatal("mount options are shared")
			}
		}
		if q.Owner != nil && (q.Owner == p.Owner || q.Owner.Mode != nil && q.Owner.Mode == p.Owner.Mode) {
			t.Fatal("owner is shared")
		}
	})
}
