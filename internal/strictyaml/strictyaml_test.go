package strictyaml_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func parse(t *testing.T, src string) strictyaml.Node {
	t.Helper()
	n, err := strictyaml.Parse("f.yaml", []byte(src))
	require.NoError(t, err)
	return n
}

func keys(t *testing.T, src string, known ...string) map[string]strictyaml.Node {
	t.Helper()
	k, err := parse(t, src).Keys(known, nil)
	require.NoError(t, err)
	return k
}

func TestValues(t *testing.T) {
	k := keys(t, "s: text\nq: \"5\"\ni: 42\nh: 0x10\nb: true\nl: [a, b]\nm: {x: 1}\nt: |\n  two\n  lines\nf: 1.5\n",
		"s", "q", "i", "h", "b", "l", "m", "t", "f")
	for key, want := range map[string]string{"s": "text", "q": "5", "t": "two\nlines\n"} {
		if got, err := k[key].String(); err != nil || got != want {
			t.Errorf("%s: %q, %v", key, got, err)
		}
	}
	for key, want := range map[string]string{"s": "text", "i": "42", "f": "1.5"} {
		if got, err := k[key].Scalar(); err != nil || got != want {
			t.Errorf("%s: %q, %v", key, got, err)
		}
	}
	for key, want := range map[string]int64{"i": 42, "h": 16} {
		if got, err := k[key].Int(100); err != nil || got != want {
			t.Errorf("%s: %d, %v", key, got, err)
		}
	}
	if got, err := k["b"].Bool(); err != nil || !got {
		t.Error(got, err)
	}
	if items, err := k["l"].Items(); err != nil || len(items) != 2 {
		t.Error(items, err)
	}
	if !k["m"].IsMap() || k["s"].IsMap() {
		t.Error("IsMap")
	}
}

// The zero Node is an absent value to every reader.
func TestAbsent(t *testing.T) {
	var n strictyaml.Node
	s, err1 := n.String()
	i, err2 := n.Int(5)
	b, err3 := n.Bool()
	f, err4 := n.Fields()
	l, err5 := n.Items()
	c, err6 := n.Scalar()
	k, err7 := n.Keys([]string{"a"}, nil)
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7); err != nil || s != "" || i != 0 || b || f != nil ||
		l != nil || c != "" || len(k) != 0 || !n.Absent() || n.IsMap() {
		t.Error(err, s, i, b, f, l, c, k)
	}
	assert.ErrorIs(t, n.Errorf("x"), dataset.ErrInvalid)
	if !parse(t, "").Absent() || !parse(t, "# only a comment\n").Absent() || !parse(t, "~").Absent() {
		t.Error("an empty file is not absent")
	}
}

// Wrong types: each reader, each kind of value.
func TestWrongTypes(t *testing.T) {
	readers := map[string]func(strictyaml.Node) error{
		"text":   func(n strictyaml.Node) error { _, err := n.String(); return err },
		"scalar": func(n strictyaml.Node) error { _, err := n.Scalar(); return err },
		"number": func(n strictyaml.Node) error { _, err := n.Int(100); return err },
		"flag":   func(n strictyaml.Node) error { _, err := n.Bool(); return err },
		"list":   func(n strictyaml.Node) error { _, err := n.Items(); return err },
		"map":    func(n strictyaml.Node) error { _, err := n.Fields(); return err },
	}
	values := map[string]struct {
		src   string
		takes string
	}{
		"text":   {"word", "text scalar"},
		"quoted": {`"5"`, "text scalar"},
		"block":  {"|\n  text", "text scalar"},
		"number": {"5", "scalar number"},
		"large":  {"101", "scalar"},
		"minus":  {"-1", "scalar"},
		"huge":   {"18446744073709551615", "scalar"},
		"float":  {"1.5", "scalar"},
		"inf":    {".inf", ""},
		"nan":    {".nan", ""},
		"flag":   {"true", "flag"},
		"yes":    {"yes", "text scalar"},
		"list":   {"[a]", "list"},
		"map":    {"{a: 1}", "map"},
		"null":   {"~", "text scalar number flag list map"},
	}
	for name, v := range values {
		for reader, read := range readers {
			fields, err := parse(t, "k: "+v.src+"\n").Fields()
			require.NoError(t, err)
			err = read(fields[0].Node)
			if takes := strings.Contains(" "+v.takes+" ", " "+reader+" "); takes != (err == nil) {
				t.Errorf("%s read as %s: %v", name, reader, err)
			}
			if err != nil && (!errors.Is(err, dataset.ErrInvalid) || !strings.HasPrefix(err.Error(), "f.yaml:1:4: k: expected ")) {
				t.Errorf("%s read as %s: %v", name, reader, err)
			}
		}
	}
}

func TestMistakesHaveTheirPlace(t *testing.T) {
	deep := strings.Repeat("[", 17) + strings.Repeat("]", 17)
	for name, c := range map[string]struct{ src, want string }{
		"duplicate":        {"a: 1\nb: 2\na: 3\n", `f.yaml:3:1: mapping key "a" already defined at [1:1] in "a: 3"`},
		"two documents":    {"a: 1\n---\nb: 1\n", `f.yaml:3:1: a second document: expected one in "b: 1"`},
		"tag":              {"a: !!str 5\n", `f.yaml:1:4: tags are not supported: omit !!str in "a: !!str 5"`},
		"own tag":          {"a: !x {b: 1}\n", `f.yaml:1:4: tags are not supported: omit !x in "a: !x {b: 1}"`},
		"undefined anchor": {"a: *x\n", `f.yaml:1:4: undefined anchor "x" in "a: *x"`},
		"anchor later":     {"a: *x\nb: &x 1\n", `f.yaml:1:4: undefined anchor "x" in "a: *x"`},
		"in itself":        {"a: &x {b: *x}\n", `f.yaml:1:11: undefined anchor "x" in "a: &x {b: *x}"`},
		"anchor twice":     {"a: &x 1\nb: &x 2\n", `f.yaml:2:5: duplicate anchor "x" in "b: &x 2"`},
		"flow too deep": {
			"a: " + deep + "\n", `f.yaml:1:20: nested too deeply (16 levels at most) in "a: ` + deep + `"`,
		},
		"tab": {
			"a:\n\tb: 1\n", `f.yaml:2:1: found character '` + "\t" + `' that cannot start any token in "b: 1"`,
		},
		"not UTF-8": {"a: 1\nb: \xff\n", "f.yaml:2:1: expected text in UTF-8, with lines of 4096 bytes at " +
			"most in \"b: \\xff\""},
		"a null byte": {"a: \x00\n", "f.yaml:1:1: expected text in UTF-8, with lines of 4096 bytes at most in " +
			"\"a: \\x00\""},
		"long line": {
			"a: " + strings.Repeat("x", 5000),
			`f.yaml:1:1: expected text in UTF-8, with lines of 4096 bytes at most in "a: ` + strings.Repeat("x", 134) + `..."`,
		},
		"too large":  {strings.Repeat("# x\n", 70000), "f.yaml: too large: 280000 bytes (262144 at most)"},
		"open quote": {"a: \"x\n", `f.yaml:1:4: could not find end character of double-quoted text in "a: \"x"`},
	} {
		_, err := strictyaml.Parse("f.yaml", []byte(c.src))
		if err == nil || err.Error() != c.want || !errors.Is(err, dataset.ErrInvalid) {
			t.Errorf("%s:\n got %v\nwant %s", name, err, c.want)
		}
	}
	blocks := ""
	for n := range 18 {
		blocks += strings.Repeat(" ", n) + "a:\n"
	}
	for name, src := range map[string]string{
		"block": blocks,
		"list":  strings.Repeat("- ", 18) + "a",
		"line":  strings.Repeat("- ", 2000) + "a",
	} {
		if _, err := strictyaml.Parse("f.yaml", []byte(src)); err == nil ||
			!strings.Contains(err.Error(), "nested too deeply") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeys(t *testing.T) {
	src := "sise: 1\nsize: 2\nlater: 3\nempty:\nnull: ~\n\"qu oted\": 1\n5: 1\n"
	k, err := parse(t, src).Keys([]string{"size", "empty", "null"}, map[string]string{"later": "is not supported"})
	var got []string
	for _, e := range strictyaml.All(err) {
		got = append(got, e.Error())
	}
	want := []string{
		`f.yaml:1:1: sise: unknown key "sise", did you mean size? (available: empty, null, size) in "sise: 1"`,
		`f.yaml:3:1: later: is not supported in "later: 3"`,
		`f.yaml:4:1: empty: it has no value: add one, or omit the key in "empty:"`,
		`f.yaml:5:1: null: it has no value: add one, or omit the key in "null: ~"`,
		`f.yaml:6:1: qu oted: unknown key "qu oted" (available: empty, null, size) in "\"qu oted\": 1"`,
		`f.yaml:7:1: 5: unknown key "5" (available: empty, null, size) in "5: 1"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if n, _ := k["size"].Int(5); n != 2 || len(k) != 1 {
		t.Errorf("what is good beside the mistakes: %v", k)
	}
	if err == nil || !strings.HasSuffix(err.Error(), " (and 5 more)") {
		t.Error(err)
	}
	merge := keys(t, "a: &x {b: 1}\nc:\n  <<: *x\n", "a", "c")
	if _, err := merge["c"].Fields(); err == nil || err.Error() != "f.yaml:3:3: c: expected a plain key, not "+
		"\"<<\" in \"<<: *x\"" {
		t.Error(err)
	}
	if _, err := strictyaml.Parse("f.yaml", []byte("? [a, b]\n: 1\n")); err == nil {
		t.Error("a list was taken for a key")
	}
}

func TestAnchors(t *testing.T) {
	k := keys(t, "a: &x {n: 1}\nb: *x\nc: &y 5\nd: *y\ne: [*y, *y]\nf: &z [*x, *y]\ng: *z\n", "a", "b", "c", "d", "e",
		"f", "g")
	fields, err := k["b"].Fields()
	if err != nil || len(fields) != 1 || fields[0].Name != "n" {
		t.Error(fields, err)
	}
	if n, err := k["d"].Int(10); n != 5 || err != nil {
		t.Error(n, err)
	}
	items, err := k["g"].Items()
	if err != nil || len(items) != 2 || !items[0].IsMap() {
		t.Error(items, err)
	}
	// A mistake in the value of an anchor is reported once, at the place of the anchor.
	var bad strictyaml.Mistakes
	for _, key := range []string{"a", "b"} {
		_, err := k[key].Keys([]string{"m"}, nil)
		bad.Add(err)
	}
	if list := strictyaml.All(bad.Err()); len(list) != 1 || !strings.HasPrefix(list[0].Error(), "f.yaml:1:8: ") {
		t.Error(list)
	}
}

func TestMistakes(t *testing.T) {
	var m strictyaml.Mistakes
	if m.Err() != nil || !m.Add(nil) {
		t.Error("no mistake is an error")
	}
	n := parse(t, "a: 1\nb: 2\n")
	fields, err := n.Fields()
	require.NoError(t, err)
	m.Add(fields[1].Node.Errorf("second"))
	m.Add(fields[0].Node.Wrap(errors.New("first")))
	m.Add(errors.New("of no place"))
	got := fmt.Sprint(strictyaml.All(m.Err()))
	if want := `[: of no place f.yaml:1:4: a: first in "a: 1" f.yaml:2:4: b: second in "b: 2"]`; got != want {
		t.Errorf("got %s", got)
	}
	if plain := errors.New("x"); len(strictyaml.All(plain)) != 1 || n.Wrap(nil) != nil {
		t.Error("All or Wrap")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"a: 1\n", "a: &x {b: [1, *x]}\n", "- - - a\n", "{a: {b: {c: d}}}", "a: !!str 5", "<<: *x", "? a\n: b",
		"a: |\n x\n", "a: >-\n x\n\ty",
		"%YAML 1.2\n---\na: 1\n...\n", "a: 'x''y'", "\"\\u0041\": 1", "a: 1 # c\r\nb: 2\r\n", "\ufeffa: 1",
		"a: 0x7fffffffffffffff", "a: -.inf", "&a : *a",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		n, err := strictyaml.Parse("f.yaml", src)
		if err == nil {
			budget := 300
			err = read(n, &budget)
		}
		if err == nil {
			return
		}
		for _, e := range strictyaml.All(err) {
			if line := e.Error(); !errors.Is(e, dataset.ErrInvalid) || !strings.HasPrefix(line, "f.yaml:") ||
				strings.Contains(line, "\n") || len(line) > 1500 {
				t.Fatalf("%q: %q", src, line)
			}
		}
	})
}

// read reads all values with every reader, until the budget is used up. The value of an anchor counts at each use.
func read(n strictyaml.Node, budget *int) error {
	if *budget--; *budget < 0 {
		return nil
	}
	var bad strictyaml.Mistakes
	_, err := n.String()
	bad.Add(err)
	_, err = n.Scalar()
	bad.Add(err)
	_, err = n.Int(1 << 40)
	bad.Add(err)
	_, err = n.Bool()
	bad.Add(err)
	_, err = n.Keys([]string{"a", "b"}, map[string]string{"c": "later"})
	bad.Add(err)
	fields, _ := n.Fields()
	for _, f := range fields {
		bad.Add(read(f.Node, budget))
	}
	items, _ := n.Items()
	for _, i := range items {
		bad.Add(read(i, budget))
	}
	return bad.Err()
}
