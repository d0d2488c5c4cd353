package dataset_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/dataset"
)

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
		if err != nil {
			t.Fatal(err)
		}
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
		if err := dataset.CheckLabel(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "-a", "a b", "a=b", strings.Repeat("x", 64), "a\n"} {
		refused(t, bad, dataset.CheckLabel(bad), "bad label key")
	}
	if err := dataset.CheckPoolName("snapshot"); err != nil {
		t.Error("a pool may have a name that a profile may not:", err)
	}
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
