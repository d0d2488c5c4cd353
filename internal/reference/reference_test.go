package reference

import (
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/test/require"
)

const animals = `{
  "type": "object",
  "required": ["farm"],
  "properties": {
    "farm": {"description": "The farm.", "examples": ["north"], "x-live": "yes", "$ref": "#/$defs/name"},
    "rest": {
      "description": "How long they rest.", "x-default": "none", "x-live": "no", "examples": [{"for": "3d", "at": ["0:00", "noon"]}],
      "anyOf": [{"enum": ["always", "never"]}, {"type": "object", "properties": {"for": {"description": "The time.", "x-default": "1h", "examples": ["3d"], "$ref": "#/$defs/duration"}}}]
    },
    "cows": {
      "description": "The cows.", "x-default": "none", "x-live": "no", "examples": [[{"name": "1"}]], "type": "array",
      "items": {"type": "object", "required": ["name"], "properties": {"name": {"description": "Its name.", "examples": ["1"], "x-live": "yes", "type": "string"}}}
    },
    "fields": {
      "description": "The fields.", "x-default": "none", "x-live": "no", "examples": [{}], "type": "object",
      "additionalProperties": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/field"}]}
    }
  },
  "$defs": {
    "name": {"title": "name", "type": "string"},
    "duration": {"title": "duration", "type": "string"},
    "field": {"type": "object", "properties": {"open": {"description": "Whether it is open.", "x-default": "false", "examples": [true], "type": "boolean"}}}
  }
}`

func TestKeys(t *testing.T) {
	got, err := Page{Schema: []byte(animals)}.Keys()
	require.NoError(t, err)
	want := []Key{
		{"farm", "name", "The farm.", "", "north", "yes"},
		{"rest", "always, never, or mapping", "How long they rest.", "none", `{for: 3d, at: ["0:00", noon]}`, "no"},
		{"rest.for", "duration", "The time.", "1h", "3d", "no"},
		{"cows", "list of mappings", "The cows.", "none", `[{name: "1"}]`, "no"},
		{"cows[].name", "text", "Its name.", "", `"1"`, "yes"},
		{"fields", "mapping", "The fields.", "none", "{}", "no"},
		{"fields.NAME.open", "true, false", "Whether it is open.", "false", "true", "no"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, err := (Page{Schema: []byte(strings.Replace(animals, `"x-default": "1h", `, "", 1))}).Keys(); err == nil || !strings.Contains(err.Error(), "rest.for") {
		t.Errorf("a key without a default: %v", err)
	}
}

func TestPages(t *testing.T) {
	p := Page{File: "animals.yaml", About: "The `animals` of a farm.", Notes: []string{"A note."}, Schema: []byte(animals)}
	page, err := p.Markdown()
	for _, want := range []string{
		"# Keys of animals.yaml\n\nThe `animals` of a farm.\n\nA note.\n", "- **duration**: ",
		"\n## rest.for\n\nThe time.\n\nType: duration. Default: 1h. Changes live: no.\n\n```yaml\nfor: 3d\n```\n",
	} {
		if err != nil || !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s (%v)", want, page, err)
		}
	}
	man, err := p.Man("1.2.3")
	for _, want := range []string{
		".TH \"ANIMALS.YAML\" \"5\" \"\" \"drover 1.2.3\" \"Drover\"\n", ".SH NAME\nanimals.yaml \\- keys of the file\n", ".SH rest.for\nThe time.\n",
	} {
		if err != nil || !strings.Contains(man, want) {
			t.Errorf("no %q in\n%s (%v)", want, man, err)
		}
	}
}

// An example that is a text is read as the same text.
func TestQuoteYAML(t *testing.T) {
	for _, text := range []string{
		"fast", "24h", "", " a", "-a", "a: b", "#a", "1", "1.5", "1e3", "0x10", "0o17", "inf", ".inf", ".NaN", "true", "False",
		"null", "~", "/srv/a", "a\\b", "\"a\"",
	} {
		var got any
		if err := yaml.Unmarshal([]byte(quoteYAML(text)), &got); err != nil || got != text {
			t.Errorf("%q becomes %s, which is read as %#v (%v)", text, quoteYAML(text), got, err)
		}
	}
}
