package listing

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/dataset"
)

// The values of -o. The value template is followed by = and the template.
const (
	formatTable    = "table"
	formatWide     = "wide"
	formatJSON     = "json"
	formatYAML     = "yaml"
	formatName     = "name"
	formatTemplate = "template"
)

// formats has the words with which -o is completed.
var formats = []string{formatTable, formatWide, formatJSON, formatYAML, formatName, formatTemplate + "="}

// format is the value of -o.
type format struct{ name, template string }

// String returns the text that Set accepts for the format.
func (f *format) String() string {
	if f.name == formatTemplate {
		return formatTemplate + "=" + f.template
	}
	return f.name
}

// showsColumns reports whether the output has only the columns of the table, or the names.
func (f *format) showsColumns() bool {
	return f.name == formatTable || f.name == formatWide || f.name == formatName
}

// Type returns the placeholder for the value in the help.
func (f *format) Type() string { return "table|wide|json|yaml|name|template=TEXT" }

// Set accepts a format, and template= followed by a template.
func (f *format) Set(s string) error {
	if text, ok := strings.CutPrefix(strings.TrimPrefix(s, "go-"), formatTemplate+"="); ok {
		*f = format{formatTemplate, text}
		return nil
	}
	if strings.HasPrefix(s, tablePrefix) && strings.Contains(s, "{{") { // as docker does
		*f = format{formatTemplate, s}
		return nil
	}
	switch s {
	case formatTable, formatWide, formatJSON, formatYAML, formatName:
		*f = format{name: s}
		return nil
	case formatTemplate:
		return fmt.Errorf("expected template=TEXT, such as template='{{.id}}'")
	}
	names := []string{formatTable, formatWide, formatJSON, formatYAML, formatName, formatTemplate + "=TEXT"}
	return fmt.Errorf("unknown format %q (available: %s)%s", dataset.Clip(s), dataset.FormatChoices(names),
		dataset.Suggestion(s, formats))
}

// print prints the items in the format of -o. With -q, the formats table and wide print only IDs.
func (l List[T]) print(a *cli.App, o *options, text *itemTemplate, items []T) error {
	switch o.format.name {
	case formatJSON:
		return show.List(a.Out, items)
	case formatYAML:
		return show.YAML(a.Out, append([]T{}, items...))
	case formatName:
		return printLines(a, items, l.Name)
	case formatTemplate:
		return l.printTemplate(a, text, items)
	}
	if o.quiet {
		return printLines(a, items, l.ID)
	}
	return l.table(items, o.format.name == formatWide).Write(a.Out)
}

func printLines[T any](a *cli.App, items []T, line func(T) string) error {
	var b strings.Builder
	for _, item := range items {
		b.WriteString(show.Clean(line(item)) + "\n")
	}
	_, err := a.Out.Write([]byte(b.String()))
	return err
}

// printTemplate prints each item with a template, on a line. A template of a table also prints a header, and aligns the
// columns, which are separated by tabs.
func (l List[T]) printTemplate(a *cli.App, text *itemTemplate, items []T) error {
	cells := make([][]string, len(items))
	if text.usesCells {
		cells = l.table(items, true).Cells()
	}
	w, flush := text.writer(a.Out)
	for i, item := range items {
		line, err := text.line(item, cells[i])
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return flush()
}

// line returns an item as the template prints it. cells is the row of the item in the table, if the template uses
// cells.
func (t *itemTemplate) line(item any, cells []string) (string, error) {
	o, err := toObject(item)
	if err != nil {
		return "", err
	}
	complete := t.keys.schema.complete(o)
	if fields, ok := complete.(map[string]any); ok && cells != nil {
		t.keys.addCells(fields, o, cells)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, complete); err != nil {
		return "", t.failed(err)
	}
	return b.String(), nil
}

// complete returns a value decoded from JSON with all fields of its schema. Fields that the JSON omits have their zero
// value. Integers are int64, and texts have no control characters.
func (s *schema) complete(v any) any {
	switch s.kind {
	case object:
		in, _ := v.(map[string]any)
		out := make(map[string]any, len(s.fields))
		for name, f := range s.fields {
			out[name] = f.complete(in[name])
		}
		return out
	case array:
		in, _ := v.([]any)
		out := make([]any, 0, len(in))
		for _, x := range in {
			out = append(out, s.items.complete(x))
		}
		return out
	case dictionary:
		in, _ := v.(map[string]any)
		out := make(map[string]string, len(in))
		for key, x := range in {
			if text, ok := x.(string); ok {
				out[key] = show.Clean(text)
			} else {
				out[key] = fmt.Sprint(x)
			}
		}
		return out
	case scalar:
	}
	switch v := v.(type) {
	case nil:
		return s.zero
	case string:
		return show.Clean(v)
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	}
	return v
}
