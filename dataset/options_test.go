package dataset_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func TestParseOptions(t *testing.T) {
	mode := uint32(0o2750)
	got, err := dataset.ParseOptions(map[string]string{
		"profile": "gold", "size": "20GiB", "from": "db", "fs": "xfs", "pool": "fast", "owner": "999:998",
		"mode": "2750", "label.team": "a b", "label.io.drover/x": "", "protect": "", "readonly": "no",
	})
	require.NoError(t, err)
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
	delete(opts, "label.more")
	_, err = dataset.LabelChange{Set: map[string]string{"more": "v"}}.Apply("volume db", opts)
	refused(t, "one more than 64 labels", err, "64 at most")
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

const (
	nameGrammar    = `[a-zA-Z0-9][a-zA-Z0-9_.-]{1,127}`
	profileGrammar = `[a-z0-9][a-z0-9-]{0,62}`
	prefixGrammar  = `[0-9a-f-]{4,36}`
)

func TestParseSpec(t *testing.T) {
	long := strings.Repeat("a", 128)
	for in, want := range map[string]dataset.Spec{
		"db":                     {Name: "db"},
		"Db.1_x-":                {Name: "Db.1_x-"},
		long:                     {Name: long},
		"db@gold":                {Name: "db", Profile: "gold"},
		"db@9-lives":             {Name: "db", Profile: "9-lives"},
		"db@snapshots":           {Name: "db", Profile: "snapshots"},
		"db@snapshot-f23c":       {Name: "db", From: "f23c"},
		"db-test@snapshot-F23CA": {Name: "db-test", From: "f23ca"},
		"db@SnapShot-f23ca986-8f0c-4a08-9c5c-1b2c3d4e5f60": {Name: "db", From: "f23ca986-8f0c-4a08-9c5c-1b2c3d4e5f60"},
	} {
		got, err := dataset.ParseSpec(in)
		if err != nil {
			t.Errorf("ParseSpec(%q): %v", in, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ParseSpec(%q): %s", in, diff)
		}
	}
}

func TestParseSpecRefuses(t *testing.T) {
	for in, part := range map[string]string{
		"":                                       "bad volume name",
		"a":                                      "2 to 128",
		strings.Repeat("a", 129):                 "bad volume name",
		strings.Repeat("a", 1<<20):               "...",
		"-rf":                                    "bad volume name",
		".db":                                    "bad volume name",
		"../etc":                                 "bad volume name",
		"db/x":                                   "bad volume name",
		"db\n":                                   "bad volume name",
		"dß":                                     "bad volume name",
		"@gold":                                  "bad volume name",
		"db@":                                    "bad profile name",
		"db@Gold":                                "bad profile name",
		"db@go@ld":                               "bad profile name",
		"db@-gold":                               "bad profile name",
		"db@gold\n":                              "bad profile name",
		"db@snapshot":                            "db@snapshot-f23ca986",
		"db@SNAPSHOT":                            "db@snapshot-f23ca986",
		"db@snapshot-":                           "bad UUID prefix",
		"db@snapshot-f23":                        "4 to 36",
		"db@snapshot-f23g":                       "bad UUID prefix",
		"db@snapshot-f23c@gold":                  "bad UUID prefix",
		"db@\u017fnapshot-f23c":                  "bad profile name", // a long s is no s
		"db@" + strings.Repeat("a", 64):          "bad profile name",
		"db@snapshot-" + strings.Repeat("a", 37): "bad UUID prefix",
		"db@snapshot-f23ca986\x00":               "bad UUID prefix",
		"db@snapshot-" + strings.Repeat("a", 1000): "...",
	} {
		got, err := dataset.ParseSpec(in)
		refused(t, in, err, part)
		if got != (dataset.Spec{}) {
			t.Errorf("ParseSpec(%.40q) returned %+v beside its error", in, got)
		}
	}
}

// refused checks that an error about wrong input has the required form: it is ErrInvalid, one short line in lower case,
// and contains part, which tells the reader what would be valid.
func refused(t *testing.T, in string, err error, part string) {
	t.Helper()
	if !errors.Is(err, dataset.ErrInvalid) {
		t.Errorf("%.40q: got %v, want ErrInvalid", in, err)
		return
	}
	line := err.Error()
	if !strings.Contains(line, part) {
		t.Errorf("%.40q: %q does not say %q", in, line, part)
	}
	if len(line) > 1000 || strings.ContainsAny(line, "\n\x00") || line[0] >= 'A' && line[0] <= 'Z' {
		t.Errorf("%.40q: not one short lower-case line: %q", in, line)
	}
}

func TestSpecRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := dataset.Spec{Name: rapid.StringMatching(nameGrammar).Draw(t, "name")}
		switch rapid.IntRange(0, 2).Draw(t, "form") {
		case 1:
			want.Profile = rapid.StringMatching(profileGrammar).
				Filter(func(s string) bool { return s != "snapshot" && !strings.HasPrefix(s, "snapshot-") }).
				Draw(t, "profile")
		case 2:
			want.From = rapid.StringMatching(prefixGrammar).Draw(t, "from")
		}
		got, err := dataset.ParseSpec(want.String())
		require.NoError(t, err)
		if got != want {
			t.Fatalf("%q came back as %+v", want, got)
		}
	})
}

func TestAnonymous(t *testing.T) {
	hex := strings.Repeat("0123456789abcdef", 4)
	for name, want := range map[string]bool{
		hex: true, hex[:63]: false, hex + "0": false, strings.ToUpper(hex): false, "g" + hex[1:]: false, "db": false,
	} {
		if got := (dataset.Spec{Name: name}).Anonymous(); got != want {
			t.Errorf("Anonymous(%q) = %v", name, got)
		}
	}
}

func TestCheckLabelAndPoolName(t *testing.T) {
	for _, good := range []string{"a", "io.drover/team_1", strings.Repeat("x", 63)} {
		assert.NoError(t, dataset.CheckLabel(good))
	}
	for _, bad := range []string{"", "-a", "a b", "a=b", strings.Repeat("x", 64), "a\n"} {
		refused(t, bad, dataset.CheckLabel(bad), "bad label key")
	}
	assert.NoErrorf(t, dataset.CheckPoolName("snapshot"), "a pool may have a name that a profile may not")
	refused(t, "Fast", dataset.CheckPoolName("Fast"), "bad pool name")
}

func FuzzParseSpec(f *testing.F) {
	for _, s := range []string{
		"db", "db@gold", "db@snapshot-f23ca986", "db@SNAPSHOT-F23C", "db@snapshot", "db@", "@", "", "a",
		"../../etc/passwd", "db@snapshot-----", "db@\u017fnapshot-abcd", "-o", "db\x00", "db@gold@gold",
		strings.Repeat("a", 200), "db@snapshot-" + strings.Repeat("f", 40),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		s, err := dataset.ParseSpec(in)
		if err != nil {
			refused(t, in, err, "")
			return
		}
		if again, err := dataset.ParseSpec(s.String()); err != nil || again != s {
			t.Fatalf("%q: %+v came back as %+v, %v", in, s, again, err)
		}
		if !strings.HasPrefix(in, s.Name) || len(s.Name) < 2 || len(s.Name) > 128 || strings.ContainsAny(s.Name, "/@\x00\n ") {
			t.Fatalf("%q: name %q", in, s.Name)
		}
		if s.Profile != "" && s.From != "" {
			t.Fatalf("%q: both a profile and a source: %+v", in, s)
		}
		if strings.ToLower(s.From) != s.From {
			t.Fatalf("%q: prefix %q is not in lower case", in, s.From)
		}
	})
}

func TestParseReference(t *testing.T) {
	ref := dataset.ParseReference("db-test@snapshot-F23CA")
	want := dataset.Reference{
		Spec: dataset.Spec{Name: "db-test", From: "f23ca"}, Spelling: "db-test@snapshot-F23CA",
	}
	if ref != want || ref.String() != ref.Spelling {
		t.Errorf("got %+v, %s, want %+v", ref, ref, want)
	}
	bad := dataset.ParseReference("db@gold!")
	if before, after := bad.SplitAtSign(); before != "db" || after != "gold!" || bad.Spec != (dataset.Spec{}) ||
		bad.Spelling != "db@gold!" || !errors.Is(bad.Err, dataset.ErrProfileName) {
		t.Errorf("got %+v, %q and %q", bad, before, after)
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]dataset.Size{
		"1B": 1, "1 b": 1, "1K": 1024, "1KiB": 1024, "1KB": 1000, "1kb": 1000, "512M": 512 << 20,
		"20GiB": 20 << 30, "20g": 20 << 30, "100GB": 100e9, " 2T ": 2 << 40, "1.5TB": 15e11,
		"0.5KiB": 512, "1.0001KB": 1000, "0.001kb": 1, "00007B": 7,
		"4194303TiB": 4194303 << 40, "4611686018427387903B": math.MaxInt64 / 2,
	} {
		got, err := dataset.ParseSize(in)
		if err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
}

func TestParseSizeRefuses(t *testing.T) {
	for in, part := range map[string]string{
		"":                             "expected a number and a unit",
		"GiB":                          "expected a number and a unit",
		"-1GiB":                        "expected a number and a unit",
		"+1GiB":                        "expected a number and a unit",
		"1e3GiB":                       "expected a number and a unit",
		"1,5GiB":                       "expected a number and a unit",
		"1.GiB":                        "expected a number and a unit",
		".5GiB":                        "expected a number and a unit",
		"1GiB\x00":                     "expected a number and a unit",
		"1  GiB":                       "expected a number and a unit",
		"0x10GiB":                      "expected a number and a unit",
		"20":                           "use 20GiB for gibibytes or 20B for bytes",
		"1.5":                          "use 1.5GiB for gibibytes or 1.5B for bytes",
		"20GiBB":                       `unknown unit "GiBB"`,
		"20P":                          "unknown unit",
		"0GiB":                         "more than 0",
		"0.0001B":                      "more than 0",
		"4194304TiB":                   "too large",
		"999999999999999999TB":         "too large",
		"9999999999999999999B":         "too large",
		"99999999999999999999B":        "expected a number and a unit",
		"1" + strings.Repeat("x", 1e6): "...",
		strings.Repeat(" ", 1e6) + "1": "...",
	} {
		n, err := dataset.ParseSize(in)
		refused(t, in, err, part)
		if n != 0 {
			t.Errorf("ParseSize(%.40q) returned %d beside its error", in, n)
		}
	}
}

func TestSizeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		unit := rapid.SampledFrom([]dataset.Size{1, 1000, 1e6, 1e9, 1e12, dataset.KiB, dataset.MiB, dataset.GiB, dataset.TiB}).Draw(t, "unit")
		n := rapid.Int64Range(1, math.MaxInt64/2/int64(unit)).Draw(t, "n")
		want := dataset.Size(n) * unit
		got, err := dataset.ParseSize(want.String())
		if err != nil || got != want {
			t.Fatalf("%d was written as %q and read as %d, %v", want, want, got, err)
		}
	})
}

func TestSizeString(t *testing.T) {
	for n, want := range map[dataset.Size]string{
		0: "0B", 1: "1B", 1000: "1000B", 1024: "1KiB", 1537: "1537B", 1e6: "1MB", 20 << 30: "20GiB",
		1 << 40: "1TiB", 100e9: "100GB", 1024e9: "1024GB", -1: "-1B",
	} {
		if got := n.String(); got != want {
			t.Errorf("Size(%d).String() = %q, want %q", int64(n), got, want)
		}
	}
}

func TestSizeSaid(t *testing.T) {
	for _, tc := range []struct {
		size dataset.Size
		want string
	}{
		{50e9, "50GB"}, {20 << 30, "20GiB"}, {50000003072, "46.6GiB"}, {12345 << 20, "12345MiB"},
		{123456 << 20, "121GiB"}, {20<<30 + 1<<20, "20481MiB"}, {1234567, "1.18MiB"}, {0, "0B"},
	} {
		if got := tc.size.Readable(); got != tc.want {
			t.Errorf("%d is said as %q, want %q", int64(tc.size), got, tc.want)
		}
	}
}

func TestSizeHuman(t *testing.T) {
	for n, want := range map[dataset.Size]string{
		0: "0B", 1023: "1023B", 1024: "1KiB", 1536: "1.5KiB", 10 << 20: "10MiB", 1567000000: "1.46GiB",
		12345 << 10: "12.1MiB", 999 << 30: "999GiB", 1 << 40: "1TiB", 3 << 50: "3PiB", 4096 << 50: "4096PiB",
		-1536: "-1.5KiB", -12345 << 10: "-12.1MiB",
	} {
		if got := n.Human(); got != want {
			t.Errorf("Size(%d).Human() = %q, want %q", int64(n), got, want)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{
		"20GiB", "512M", "100GB", "1.5TB", "1", "0B", "-1G", "999999999999999999TiB", "0.000001KiB", " 7 kb ",
		"1e9B", "1..2G", "", "\n1G", "18446744073709551616B", "１GiB", "1\u212aiB",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		n, err := dataset.ParseSize(in)
		if err != nil {
			refused(t, in, err, "")
			return
		}
		if n <= 0 || n > math.MaxInt64/2 {
			t.Fatalf("ParseSize(%q) = %d", in, n)
		}
		if again, err := dataset.ParseSize(n.String()); err != nil || again != n {
			t.Fatalf("%q: %d was written as %q and read as %d, %v", in, n, n, again, err)
		}
		_ = n.Human()
	})
}
