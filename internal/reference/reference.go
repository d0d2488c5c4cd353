// Package reference writes the reference pages of profiles.yaml and drover.yaml, as Markdown for docs/reference and as
// man pages, from their JSON schemas. Package settings of the command makes the pages from the schemas. Tests of the
// parsers check that the schemas match the code. The package performs no I/O and keeps no state. How a schema is read
// is in reference.go, and the layout of the pages in markdown.go.
//
// A schema has these annotations for each key: description, examples, x-default (what holds if the key is absent) and
// x-live (how a change takes effect). A key without x-live has that of its parent.
package reference

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A Key is a key of a configuration file.
type Key struct {
	// Path is the path of the key, such as "settings.NAME.size". NAME is a name that the operator chooses. An item of a
	// list is written as [].
	Path        string
	Type        string
	Description string
	Default     string // the value if the key is absent; empty if the key is required whenever its parent is present
	Example     string // as YAML in one line
	Live        string // how a change takes effect
}

// A Page is a reference page of one file.
type Page struct {
	File   string // such as profiles.yaml
	About  string // what the file is for, one paragraph
	Notes  []string
	Schema []byte
}

// schema is a JSON schema with the annotations of the package.
type schema struct {
	Ref         string             `json:"$ref"`
	Title       string             `json:"title"`
	Description string             `json:"description"`
	Type        any                `json:"type"`
	Enum        []string           `json:"enum"`
	AnyOf       []*schema          `json:"anyOf"`
	Properties  ordered            `json:"properties"`
	Additional  json.RawMessage    `json:"additionalProperties"`
	Items       *schema            `json:"items"`
	Required    []string           `json:"required"`
	Defs        map[string]*schema `json:"$defs"`
	Default     string             `json:"x-default"`
	Live        string             `json:"x-live"`
	Examples    []json.RawMessage  `json:"examples"`
}

// ordered are the properties of an object in the order of the file.
type ordered struct {
	names  []string
	values map[string]*schema
}

// UnmarshalJSON keeps the order of the properties.
func (o *ordered) UnmarshalJSON(b []byte) error {
	if err := json.Unmarshal(b, &o.values); err != nil {
		return err
	}
	names, _, err := objectKeys(b)
	o.names = names
	return err
}

// objectKeys returns the keys of a JSON object in their order, with their values.
func objectKeys(b []byte) (names []string, values []json.RawMessage, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	if _, err := d.Token(); err != nil {
		return nil, nil, err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, nil, err
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, nil, err
		}
		names, values = append(names, fmt.Sprint(name)), append(values, v)
	}
	return names, values, nil
}

// Keys returns all keys of a file in the order of its schema.
func (p Page) Keys() ([]Key, error) {
	var root schema
	if err := json.Unmarshal(p.Schema, &root); err != nil {
		return nil, err
	}
	r := reader{defs: root.Defs}
	err := r.properties("", &root, "")
	return r.keys, err
}

// A reader collects the keys of a schema.
type reader struct {
	defs map[string]*schema
	keys []Key
}

// resolve returns a schema with the parts of the definition that its $ref names.
func (r *reader) resolve(s *schema) *schema {
	def := r.defs[strings.TrimPrefix(s.Ref, "#/$defs/")]
	if s.Ref == "" || def == nil {
		return s
	}
	out := *def
	for _, f := range []struct{ to, from *string }{
		{&out.Description, &s.Description}, {&out.Default, &s.Default}, {&out.Live, &s.Live},
	} {
		if *f.from != "" {
			*f.to = *f.from
		}
	}
	if s.Examples != nil {
		out.Examples = s.Examples
	}
	return &out
}

// properties adds the keys below a path. live is how a change of the key at path takes effect.
func (r *reader) properties(path string, s *schema, live string) error {
	for _, form := range append([]*schema{s}, s.AnyOf...) {
		form = r.resolve(form)
		for _, name := range form.Properties.names {
			if slices.ContainsFunc(r.keys, func(k Key) bool { return k.Path == path+name }) {
				continue // another form of the value has added this key already
			}
			if err := r.key(path+name, r.resolve(form.Properties.values[name]), live,
				slices.Contains(form.Required, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *reader) key(path string, s *schema, live string, required bool) error {
	k := Key{Path: path, Type: r.typeOf(s), Description: s.Description, Default: s.Default, Live: s.Live}
	k.Live = cmp.Or(k.Live, live)
	if len(s.Examples) > 0 {
		var err error
		if k.Example, err = flow(s.Examples[0]); err != nil {
			return err
		}
	}
	if k.Default == "" && !required {
		return fmt.Errorf("key %s has no x-default and is not required", path)
	}
	r.keys = append(r.keys, k)
	if err := r.properties(path+".", s, k.Live); err != nil {
		return err
	}
	if s.Items != nil {
		if err := r.properties(path+"[].", r.resolve(s.Items), k.Live); err != nil {
			return err
		}
	}
	var below schema
	if len(s.Additional) > 0 && s.Additional[0] == '{' {
		if err := json.Unmarshal(s.Additional, &below); err != nil {
			return err
		}
	}
	return r.properties(path+".NAME.", &below, k.Live)
}

// typeOf returns the type of a value in a few words.
func (r *reader) typeOf(s *schema) string {
	if len(s.AnyOf) > 0 {
		var types []string
		for _, form := range s.AnyOf {
			if t := r.typeOf(r.resolve(form)); t != "null" && !slices.Contains(types, t) {
				types = append(types, t)
			}
		}
		return strings.Join(types, ", or ")
	}
	switch t, _ := s.Type.(string); {
	case len(s.Enum) > 0:
		return strings.Join(s.Enum, ", ")
	case s.Title != "":
		return s.Title
	case t == "array":
		of := r.typeOf(r.resolve(s.Items))
		if strings.Contains(of, ", ") || of == "text" {
			return "list"
		}
		return "list of " + plural(of)
	case t == "object":
		return "mapping"
	case t == "integer":
		return "number"
	case t == "boolean":
		return "true, false"
	case t == "null":
		return t
	}
	return "text"
}

func plural(word string) string {
	if word == strings.ToUpper(word) {
		return word
	}
	if strings.HasSuffix(word, "s") {
		return word + "es"
	}
	return word + "s"
}

// flow returns a JSON value as YAML in flow style, which needs fewer quotes.
func flow(b json.RawMessage) (string, error) {
	switch b[0] {
	case '{':
		names, values, err := objectKeys(b)
		if err != nil {
			return "", err
		}
		var parts []string
		for i, name := range names {
			v, err := flow(values[i])
			if err != nil {
				return "", err
			}
			parts = append(parts, name+": "+v)
		}
		return "{" + strings.Join(parts, ", ") + "}", nil
	case '[':
		var items []json.RawMessage
		if err := json.Unmarshal(b, &items); err != nil {
			return "", err
		}
		var parts []string
		for _, item := range items {
			v, err := flow(item)
			if err != nil {
				return "", err
			}
			parts = append(parts, v)
		}
		return "[" + strings.Join(parts, ", ") + "]", nil
	case '"':
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return "", err
		}
		return quoteYAML(s), nil
	}
	return string(b), nil
}

// quoteYAML quotes a text if YAML would not read it as the same text, also inside of a list or mapping.
func quoteYAML(s string) string {
	const special = ":#{}[],&*?|<>=!%@`\"'\\"
	constants := []string{"null", "~", "true", "false", ".inf", ".nan"}
	_, floatErr := strconv.ParseFloat(s, 64)
	_, intErr := strconv.ParseInt(s, 0, 64) // such as 0x10
	if floatErr == nil || intErr == nil || s == "" || slices.Contains(constants, strings.ToLower(s)) ||
		strings.ContainsAny(s, special) || strings.ContainsAny(s[:1], "- ") {
		return strconv.Quote(s)
	}
	return s
}

// types explains the types that are not self-evident.
var types = map[string]string{
	"size": "a number and a unit: 20GiB, 512M, 1.5TB. K, M, G, T and KiB, MiB, GiB, TiB are binary, KB, MB, GB, TB " +
		"decimal. A number without a unit is refused.",
	"duration": "a number and a unit, or several: 30s, 15m, 72h, 3d, 2w, 1d12h. A day has 24 hours.",
	"name":     "1 to 63 lower-case letters, digits or '-', with a letter or digit first.",
}
