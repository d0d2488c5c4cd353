package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"
)

func TestTable(t *testing.T) {
	tests := map[string]struct {
		rows  [][]string
		paint bool
		want  string
	}{
		"empty prints the headers": {want: "NAME   SIZE   MESSAGE\n"},
		"columns are as wide as their widest cell": {
			rows: [][]string{{"db", "20GiB", "first"}, {"a-longer-name", "1GiB", ""}},
			want: "NAME            SIZE    MESSAGE\n" +
				"db              20GiB   first\n" +
				"a-longer-name   1GiB    -\n",
		},
		"letters count, not bytes": {
			rows: [][]string{{"größe", "1B", "ü"}, {"x", "2B", "y"}},
			want: "NAME    SIZE   MESSAGE\ngröße   1B     ü\nx       2B     y\n",
		},
		"a cell cannot break out of its row": {
			rows: [][]string{{"db", "1B", "a\nb\x1b[31m"}},
			want: "NAME   SIZE   MESSAGE\ndb     1B     a\\nb\\x1b[31m\n",
		},
		"colour takes no room": {
			rows: [][]string{{"db", "1B", "m"}}, paint: true,
			want: "NAME   SIZE   MESSAGE\n\x1b[31mdb\x1b[0m     1B     m\n",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tab := NewTable("NAME", "SIZE", "MESSAGE")
			for _, r := range tc.rows {
				tab.Row(r...)
			}
			if tc.paint {
				tab.Paint(0, Palette{on: true}.Red)
			}
			var b bytes.Buffer
			if err := tab.Write(&b); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, b.String()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestForm(t *testing.T) {
	var f Form
	f.Add("Volume", "db")
	f.Add("Labels")
	f.Add("Origin", "")
	f.Add("Mounted by", "one\ttwo", "", "three")
	var b bytes.Buffer
	if err := f.Write(&b); err != nil {
		t.Fatal(err)
	}
	want := "Volume:      db\nMounted by:  one\\ttwo\n             three\n"
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
}

func TestCleanIsOnePrintableLineAndLeavesPrintableTextAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })).Draw(t, "in")
		out := Clean(in)
		printable := utf8.ValidString(in)
		for _, r := range in {
			printable = printable && unicode.IsPrint(r)
		}
		if printable && out != in {
			t.Fatalf("changed %q to %q", in, out)
		}
		for _, r := range out {
			if !unicode.IsPrint(r) || r == '\n' {
				t.Fatalf("%q of %q is not printable", out, in)
			}
		}
	})
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain ü 本": "plain ü 本", "a\r\nb": `a\r\nb`, "\x1b]0;x\a": `\x1b]0;x\a`,
		"\xff": `\xff`, "\u202eevil": `\u202eevil`, "\u0085": `\u0085`, "\uFFFD": "\uFFFD",
	} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestTimes(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		0: "just now", time.Millisecond: "just now", -5 * time.Second: "5 seconds ago", -3 * time.Hour: "3 hours ago",
		72 * time.Hour: "in 3 days", time.Minute: "in about a minute",
	} {
		if got := Ago(now, now.Add(d)); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	if got := Ago(now, time.Time{}) + When(now, time.Time{}); got != "--" {
		t.Errorf("zero times: %q", got)
	}
	then := now.Add(-time.Hour).In(time.FixedZone("X", 3600))
	if got, want := When(now, then), "2026-03-01 11:00:00 UTC (about an hour ago)"; got != want {
		t.Errorf("When: %q, want %q", got, want)
	}
}

func TestShortenTellsEachFromAllOthers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOf(rapid.Custom(func(t *rapid.T) (id uuid.UUID) {
			copy(id[:], "\xf2\x3c\xa9\x86") // likely to be alike
			id[rapid.IntRange(0, 15).Draw(t, "at")] = byte(rapid.IntRange(0, 3).Draw(t, "to"))
			return id
		})).Draw(t, "ids")
		short := Shorten(ids)
		for _, id := range ids {
			s := short(id)
			if len(s) < ShortLength || !strings.HasPrefix(id.String(), s) {
				t.Fatalf("%q is no prefix of %s", s, id)
			}
			for _, other := range ids {
				if other != id && strings.HasPrefix(other.String(), s) {
					t.Fatalf("%q of %s names %s too", s, id, other)
				}
			}
		}
	})
}

func TestShortenLeavesUnknownWhole(t *testing.T) {
	id := uuid.MustParse("f23ca986-0000-4000-8000-000000000001")
	if got := Shorten([]uuid.UUID{id, id})(id); got != "f23ca986" {
		t.Errorf("got %q", got)
	}
	if got := Shorten(nil)(id); got != id.String() {
		t.Errorf("got %q", got)
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	if err := JSONList[string](&b, nil); err != nil || b.String() != "[]\n" {
		t.Errorf("%v %q", err, b.String())
	}
	b.Reset()
	if err := Line(&b, map[string]string{"a": "<&>"}); err != nil || b.String() != "{\"a\":\"<&>\"}\n" {
		t.Errorf("%v %q", err, b.String())
	}
}

func TestPalette(t *testing.T) {
	env := func(kv ...string) func(string) string {
		return func(k string) string {
			for i := 0; i < len(kv); i += 2 {
				if kv[i] == k {
					return kv[i+1]
				}
			}
			return ""
		}
	}
	for _, tc := range []struct {
		terminal bool
		env      func(string) string
		want     string
	}{
		{true, env("TERM", "xterm"), "\x1b[31mx\x1b[0m"},
		{false, env("TERM", "xterm"), "x"},
		{true, env("TERM", "dumb"), "x"},
		{true, env(), "x"},
		{true, env("TERM", "xterm", "NO_COLOR", "1"), "x"},
		{true, env("TERM", "xterm", "NO_COLOR", ""), "\x1b[31mx\x1b[0m"},
	} {
		if got := NewPalette(tc.terminal, tc.env).Red("x"); got != tc.want {
			t.Errorf("%v: %q, want %q", tc, got, tc.want)
		}
	}
}

// TestYAMLHasNoEscapeSequences: terminals execute them. An item whose YAML has one is printed as JSON, which is YAML.
func TestYAMLHasNoEscapeSequences(t *testing.T) {
	var out bytes.Buffer
	if err := YAML(&out, map[string]string{"name": "bad\x1b[2J"}); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); strings.Contains(got, "\x1b") || !strings.Contains(got, `bad\u001b[2J`) {
		t.Errorf("printed %q, want the escape sequence as text", got)
	}
}
