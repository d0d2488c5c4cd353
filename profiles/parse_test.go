package profiles_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/droverhq/drover"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
	"github.com/droverhq/drover/profiles"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/golden"
	"github.com/droverhq/drover/test/require"
)

func mistakes(err error) []string {
	var list []string
	if err != nil {
		for _, e := range strictyaml.All(err) {
			list = append(list, e.Error())
		}
	}
	return list
}

func TestParse(t *testing.T) {
	golden.Table(t, "testdata/documents.txt", func(t *testing.T, c golden.Case) []string {
		_, err := profiles.Parse("p.yaml", []byte(source(c)))
		if err != nil && (!errors.Is(err, dataset.ErrInvalid) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: %v", c.Name, err)
		}
		for range 4 { // the same mistakes each time
			if _, again := profiles.Parse("p.yaml", []byte(source(c))); !slices.Equal(mistakes(again), mistakes(err)) {
				t.Errorf("%s: %v, then %v", c.Name, err, again)
			}
		}
		return mistakes(err)
	})
}

// All mistakes of a file are reported at once, in the order of the file.
func TestAllMistakesAtOnce(t *testing.T) {
	src := strings.Join([]string{
		"default: glod",
		"profiles:",
		"  gold:",
		"    sise: 20GiB",
		"    filesystem: {type: zfs}",
		"    owner: {uid: x, gid: y}",
		"  silver:",
		"    on_delete: {trash: 3x}",
		"    access: all",
		"",
	}, "\n")
	_, err := profiles.Parse("p.yaml", []byte(src))
	var places []string
	for _, m := range mistakes(err) {
		place, _, _ := strings.Cut(m, ": ")
		places = append(places, place)
	}
	want := []string{"p.yaml:1:10", "p.yaml:4:5", "p.yaml:5:24", "p.yaml:6:18", "p.yaml:6:26", "p.yaml:8:24", "p.yaml:9:13"}
	if diff := cmp.Diff(want, places); diff != "" {
		t.Error(diff)
	}
	if err == nil || !strings.HasSuffix(err.Error(), " (and 6 more)") || !strings.HasPrefix(err.Error(), "p.yaml:1:10: ") {
		t.Errorf("the line of all of them: %v", err)
	}
}

func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile("profiles.schema.json")
	require.NoError(t, err)
	return schema
}

// instance returns the document as an editor passes it to the schema.
func instance(t *testing.T, src []byte) any {
	t.Helper()
	b, err := yaml.YAMLToJSON(src)
	require.NoError(t, err)
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(string(b)))
	require.NoError(t, err)
	return v
}

func TestSchemaAgrees(t *testing.T) {
	schema := compiled(t)
	for _, d := range documents(t) {
		if d.noYAML {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			err := schema.Validate(instance(t, []byte(d.src)))
			if d.schema != (err == nil) {
				t.Errorf("%s\nthe loader says %v, the schema %v", d.src, d.mistakes, err)
			}
		})
	}
	assert.NoErrorf(t, schema.Validate(instance(t, drover.Profiles)), "the shipped file")
}

// Every key in the schema has a description for the user of an editor.
func TestSchemaDescribesEveryKey(t *testing.T) {
	b, err := os.ReadFile("profiles.schema.json")
	require.NoError(t, err)
	var schema map[string]any
	require.NoError(t, json.Unmarshal(b, &schema))
	var visit func(path string, v any, conditional bool)
	visit = func(path string, v any, conditional bool) {
		m, ok := v.(map[string]any)
		if !ok {
			return
		}
		for key, below := range m {
			if key != "properties" {
				visit(path+"/"+key, below, conditional || key == "then" || key == "if")
				continue
			}
			for name, p := range below.(map[string]any) {
				described := p.(map[string]any)
				if ref, ok := described["$ref"].(string); ok && described["description"] == nil {
					described = schema["$defs"].(map[string]any)[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
				}
				if described["description"] == nil && !conditional {
					t.Errorf("%s/%s has no description", path, name)
				}
				visit(path+"/"+name, p, conditional)
			}
		}
	}
	visit("", schema, false)
}

func TestShipped(t *testing.T) {
	s, err := profiles.Parse("profiles.yaml", drover.Profiles)
	require.NoError(t, err)
	if s.Default() != "bronze" {
		t.Errorf("default %q", s.Default())
	}
	if diff := cmp.Diff([]string{"bronze", "gold", "silver"}, s.Names()); diff != "" {
		t.Error(diff)
	}
	// bronze works on every pool, because it asks for nothing that a pool might not support.
	bronze, err := s.Get("")
	if err != nil || bronze.Name != "bronze" || bronze.Size != 0 || bronze.Snapshots.Required || bronze.Filesystem.Type != "" ||
		bronze.Backend != "" || bronze.Pool != "" || bronze.Quiesce != dataset.QuiesceFreeze || bronze.OnDelete.Mode != dataset.DeleteTrash {
		t.Errorf("%+v, %v", bronze, err)
	}
	for _, name := range []string{"silver", "gold"} {
		p, err := s.Get(name)
		if err != nil || p.Size == 0 || !p.Snapshots.Required || p.Snapshots.Schedule == "" || p.Snapshots.Keep == (dataset.Keep{}) {
			t.Errorf("%+v, %v", p, err)
		}
	}
	first, _, _ := strings.Cut(string(drover.Profiles), "\n")
	path, ok := strings.CutPrefix(first, "# yaml-language-server: $schema=")
	if !ok {
		t.Fatalf("the first line is %q", first)
	}
	_, err = os.Stat("../" + path)
	assert.NoError(t, err)
}

func TestGet(t *testing.T) {
	s, err := profiles.Parse("p.yaml", []byte("default: b\nprofiles: {gold: {filesystem: {mount: [noatime]}}, b: {}, silver: {}}\n"))
	require.NoError(t, err)
	_, err = s.Get("glod")
	if !errors.Is(err, dataset.ErrInvalid) || err.Error() != `unknown profile "glod" (available: b, gold, silver); did you mean gold?` {
		t.Error(err)
	}
	if _, err := s.Get(strings.Repeat("x", 1e6)); err == nil || len(err.Error()) > 300 {
		t.Error("an unknown name is repeated at length")
	}
	p, err := s.Get("gold")
	require.NoError(t, err)
	p.Filesystem.Mount[0] = "changed"
	if again, _ := s.Get("gold"); again.Filesystem.Mount[0] != "noatime" {
		t.Error("a profile that was given out can be changed")
	}
	all := s.All()
	if len(all) != 3 || all[1].Name != "gold" {
		t.Fatalf("%+v", all)
	}
	all[1].Filesystem.Mount[0] = "changed"
	if again, _ := s.Get("gold"); again.Filesystem.Mount[0] != "noatime" {
		t.Error("a profile of a list can be changed")
	}
}

// The revision depends only on the choices, and not on the order of keys, their spelling, descriptions, or other
// profiles.
func TestRevision(t *testing.T) {
	revision := func(text string) string {
		t.Helper()
		s, err := profiles.Parse("p.yaml", []byte("default: a\nprofiles:\n  a: "+text+"\n  z: {}\n"))
		require.NoError(t, err)
		p, _ := s.Get("a")
		return p.Revision
	}
	base := revision("{size: 1GiB, quiesce: freeze}")
	if !regexp.MustCompile(`^[0-9a-f]{12}$`).MatchString(base) {
		t.Errorf("revision %q", base)
	}
	for _, same := range []string{"{quiesce: freeze, size: 1024MiB}", "{size: 1G}", "{size: 1GiB, on_delete: {trash: 1440m}}", "{size: 1GiB, description: x}", "{size: 1GiB, warn_at: 85%}"} {
		if got := revision(same); got != base {
			t.Errorf("%s: %s, want %s", same, got, base)
		}
	}
	seen := map[string]string{base: "base"}
	for _, d := range documents(t) {
		text, ok := strings.CutPrefix(d.src, "default: a\nprofiles:\n  a:\n    ")
		if d.mistakes != nil || !ok || strings.HasPrefix(text, "description") {
			continue
		}
		s, err := profiles.Parse("p.yaml", []byte(d.src))
		require.NoError(t, err)
		p, _ := s.Get("a")
		if other, ok := seen[p.Revision]; ok {
			t.Errorf("%s and %s have one revision", d.name, other)
		}
		seen[p.Revision] = d.name
	}
}

func TestTooMany(t *testing.T) {
	src := "default: p0\nprofiles:\n"
	for n := range 257 {
		src += fmt.Sprintf("  p%d: {}\n", n)
	}
	if _, err := profiles.Parse("p.yaml", []byte(src)); err == nil || !strings.Contains(err.Error(), "expected 1 to 256 profiles") {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	for _, d := range documents(f) {
		f.Add([]byte(d.src))
	}
	f.Add(drover.Profiles)
	f.Fuzz(func(t *testing.T, src []byte) {
		s, err := profiles.Parse("p.yaml", src)
		if err != nil {
			for _, m := range strictyaml.All(err) {
				line := m.Error()
				if !errors.Is(m, dataset.ErrInvalid) || !strings.HasPrefix(line, "p.yaml:") || strings.Contains(line, "\n") || len(line) > 2000 {
					t.Fatalf("%q: %v", src, m)
				}
			}
			return
		}
		p, err := s.Get("")
		if err != nil || len(p.Revision) != 12 {
			t.Fatalf("%q: default %+v, %v", src, p, err)
		}
		for _, p := range s.All() {
			if dataset.CheckProfileName(p.Name) != nil || p.Size < 0 || p.OnDelete.Mode == "" || p.Quiesce == "" {
				t.Fatalf("%q: %+v", src, p)
			}
		}
	})
}

// document is a profiles.yaml and its mistakes as Parse reports them, in the order of the file. A valid file has
// none.
type document struct {
	name, src string
	mistakes  []string
	schema    bool // the schema accepts it
	noYAML    bool // the schema is not asked
}

// documents reads testdata/documents.txt. Its names say why the schema cannot find a mistake.
func documents(t testing.TB) (all []document) {
	t.Helper()
	for _, c := range golden.Cases(t, "testdata/documents.txt") {
		d := document{name: c.Name, src: source(c), mistakes: c.Want, noYAML: strings.HasSuffix(c.Name, "(no YAML)")}
		d.schema = c.Want == nil || strings.Contains(c.Name, "(the schema finds nothing: ")
		all = append(all, d)
	}
	return all
}

// source returns the file of a case. Input that is indented is the text of the only profile.
func source(c golden.Case) string {
	if strings.HasPrefix(c.Input, " ") {
		return "default: a\nprofiles:\n  a:\n" + c.Input
	}
	return c.Input
}
