package dataset

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/test/assert"
)

// versionID returns the UUID of a version that has a letter as its name. "-" has none.
func versionID(letter string) uuid.UUID {
	if letter == "-" {
		return uuid.Nil
	}
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(letter))
}

// history parses versions such as "db:b<a", in which version b of name db continues a. "!" after a letter says that its
// data was removed.
func history(text string) (h History) {
	for i, word := range strings.Fields(text) {
		name, rest, _ := strings.Cut(word, ":")
		id, parent, _ := strings.Cut(rest, "<")
		id, removed := strings.CutSuffix(id, "!")
		h = append(h, PushedVersion{
			ID: versionID(id), Name: name, Parent: versionID(parent), Removed: removed, Volume: id, Dataset: versionID("dataset " + id),
			Pushed: time.Unix(int64(i), 0),
		})
	}
	return h
}

func letters(list []PushedVersion) string {
	var out []string
	for _, v := range list {
		out = append(out, v.Volume)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestNewestVersions(t *testing.T) {
	for text, want := range map[string]string{
		"":                            "",
		"db:a<-":                      "a",
		"db:a<- db:b<a db:c<b":        "c",
		"db:a<- db:b<a db:c<a":        "b c", // both sides have changed
		"db:a<- db:b<a web:c<b":       "b",   // another name continues it
		"db:a<- web:b<a db:c<b":       "c",   // by way of another name
		"db:a<- db:b<a db:c!<b":       "b",   // the data of the newest was removed
		"db:a<- db:b!<a db:c<b":       "c",
		"db:a!<-":                     "",
		"db:b<a":                      "b", // the entry of its parent is missing
		"db:a<b db:b<a":               "",  // a repository that lies must not make a walk endless
		"db:a<a":                      "a",
		"db:x<a db:a<b db:b<c db:c<a": "x",
		"db:a<- db:b<a db:c<b db:d<-": "c d",
	} {
		if got := letters(history(text).Newest("db")); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestAncestorsAndBases(t *testing.T) {
	h := history("db:a<- db:b<a db:c<b web:d<b db:e<f")
	known := h.Ancestors(versionID("d"), versionID("e"))
	for letter, want := range map[string]bool{"a": true, "b": true, "c": false, "d": true, "e": true, "f": true} {
		if known[versionID(letter)] != want {
			t.Errorf("%s: got %v", letter, !want)
		}
	}
	refs := []VersionRef{
		{Name: "db", Version: versionID("d")}, {Version: versionID("none")},
		{Repository: "other", Name: "db", Version: versionID("c")}, // a version with the same UUID in another repository
	}
	if got := letters(h.Bases(versionID("dataset a"), refs)); got != "a d" {
		t.Errorf("the bases are %q", got)
	}
	bases := history("db:a<- db:b<a web:c<b")
	for name, want := range map[string]string{"db": "b", "web": "c", "other": "c"} {
		if v, ok := LatestBase(bases, name); !ok || v.Volume != want {
			t.Errorf("the latest base for %s is %q, %v", name, v.Volume, ok)
		}
	}
	if _, ok := LatestBase(nil, "db"); ok {
		t.Error("a volume without versions has a base")
	}
	if v, ok := h.Find(versionID("c")); !ok || v.Volume != "c" {
		t.Errorf("found %+v, %v", v, ok)
	}
	if _, ok := h.Find(versionID("none")); ok {
		t.Error("found a version that does not exist")
	}
}

// Each repository has one version, the latest first, and only so many repositories are kept.
func TestRefs(t *testing.T) {
	var refs []VersionRef
	for i := range 12 {
		refs = WithRef(refs, VersionRef{Repository: fmt.Sprintf("r%d", i), Name: "db", Version: versionID("a")})
	}
	before := slices.Clone(refs)
	refs = WithRef(refs, VersionRef{Repository: "r9", Name: "web", Version: versionID("b")})
	if len(refs) != maxRefs || refs[0].Name != "web" || refs[1].Repository != "r11" || !slices.Equal(before[:1], []VersionRef{{"r11", "db", versionID("a")}}) {
		t.Errorf("got %+v", refs)
	}
	assert.NoError(t, CheckRefs(refs))
	for _, bad := range [][]VersionRef{
		append(slices.Clone(refs), refs[0]),
		{{Repository: "../x", Name: "db", Version: versionID("a")}},
		{{Repository: "r", Name: "a/b", Version: versionID("a")}},
		{{Repository: "r", Name: "db"}},
	} {
		assert.ErrorIsf(t, CheckRefs(bad), ErrInvalid, "%+v", bad)
	}
}

func TestParseDuration(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"3d": 3 * day, "2w": 14 * day, "1d12h": 36 * time.Hour, "1w1d1h1m1s": 8*day + time.Hour + time.Minute + time.Second,
		"1.5d": 36 * time.Hour, ".5w": 84 * time.Hour, "0d": 0, "0": 0, "72h": 3 * day, "30m": 30 * time.Minute,
		"+3d": 3 * day, "+1d1h": 25 * time.Hour, "12h1d": 36 * time.Hour, "500ms": time.Second / 2, "106751d": 106751 * day,
	} {
		if got, err := ParseDuration(text); got != want || err != nil {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "d", "3", "3 d", "3D", "-3d", "3d-1h", "1d+1h", "--1h", "3days", "1y", "d3", ".d", "106752d", "106751d24h", "99999999999999999999w",
		"15250w15250w", "1h\n", "+", "3d0", "2d-0h",
	} {
		if got, err := ParseDuration(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	if _, err := ParseDuration("soon"); err == nil || !strings.Contains(err.Error(), "such as 3d, 72h or 30m (units: s, m, h, d, w)") {
		t.Error(err)
	}
}

func TestDurationString(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Millisecond: "1ms", 90 * time.Second: "1m30s", time.Minute: "1m", time.Hour: "1h",
		90 * time.Minute: "1h30m", time.Hour + time.Second: "1h0m1s", 7 * 24 * time.Hour: "7d",
		36 * time.Hour: "1d12h", 24*time.Hour + time.Second: "1d1s", 20 * time.Minute: "20m", 10 * time.Hour: "10h",
	} {
		if got := Duration(d).String(); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		d := Duration(rapid.Int64Min(0).Draw(t, "duration"))
		if got, err := ParseDuration(d.String()); Duration(got) != d || err != nil {
			t.Fatalf("%v: %v, %v", d, got, err)
		}
	})
}

// TestParseDurationIsGos compares ParseDuration with time.ParseDuration for texts without days and weeks, and checks that
// everything that is printed is parsed.
func TestParseDurationIsGos(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Min(0).Draw(t, "duration"))
		if got, err := ParseDuration(d.String()); got != d || err != nil {
			t.Fatalf("%v: %v, %v", d, got, err)
		}
		s := rapid.StringMatching(`\+?[0-9.]{0,3}(ms|s|m|h)?[0-9]{0,2}(s|m|h)?`).Draw(t, "text")
		want, err := time.ParseDuration(s)
		got, gotErr := ParseDuration(s)
		if got != want || (gotErr == nil) != (err == nil) {
			t.Fatalf("%q: %v, %v, want %v, %v", s, got, gotErr, want, err)
		}
	})
}
