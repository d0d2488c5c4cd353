package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/dataset"
)

// The values of -o.
const (
	listAsTable = "table"
	formatWide  = "wide"
	listJSON    = "json"
	listYAML    = "yaml"
)

var formats = []string{listAsTable, formatWide, listJSON, listYAML}

// format is the value of -o.
type listFormat string

// String returns the text that Set accepts for the format.
func (f *listFormat) String() string { return string(*f) }

// Type returns the placeholder for the value in the help.
func (f *listFormat) Type() string { return strings.Join(formats, "|") }

// Set accepts a format.
func (f *listFormat) Set(s string) error {
	if !slices.Contains(formats, s) {
		return fmt.Errorf("unknown format %q (available: %s)%s", dataset.Clip(s), dataset.FormatChoices(formats),
			dataset.Suggestion(s, formats))
	}
	*f = listFormat(s)
	return nil
}

// print prints the items. --format comes before -q, and -q before the formats table and wide.
func (l List[T]) print(a *App, o *listOptions, text *itemTemplate[T], items []T) error {
	switch {
	case text != nil:
		return text.print(a.Out, items)
	case o.format == listJSON:
		return JSONList(a.Out, l.objects(items))
	case o.format == listYAML:
		return YAML(a.Out, append([]any{}, l.objects(items)...))
	case o.quiet:
		var b strings.Builder
		for _, item := range items {
			b.WriteString(Clean(l.ID(item)) + "\n")
		}
		_, err := io.WriteString(a.Out, b.String())
		return err
	}
	return ListTable(l.Columns(items), items, o.format == formatWide).Write(a.Out)
}

// objects returns what -o json prints for the items.
func (l List[T]) objects(items []T) (out []any) {
	for _, item := range items {
		if l.Object != nil {
			out = append(out, l.Object(item))
		} else {
			out = append(out, item)
		}
	}
	return out
}

// An itemTemplate is the value of --format. Its names are the columns.
type itemTemplate[T any] struct {
	*template.Template
	cmd     *cobra.Command
	columns func([]T) []Column[T]
	isTable bool // it begins with "table ", as in Docker: it prints a header and aligns the columns
}

// parseTemplate parses the value of --format. json is what {{json .}} is. It fails with a usage error if the template
// has a name that is no column.
func (l List[T]) parseTemplate(cmd *cobra.Command, text string) (*itemTemplate[T], error) {
	if text == listJSON {
		text = "{{json .}}"
	}
	text, isTable := strings.CutPrefix(text, "table ")
	t, err := ParseTemplate(cmd, text)
	if err != nil {
		return nil, err
	}
	out := &itemTemplate[T]{t.Option("missingkey=error"), cmd, l.Columns, isTable}
	return out, out.line(io.Discard, l.Columns(nil), header)
}

// header is the text of a column in the first line of a table.
func header[T any](c Column[T]) string { return c.Header }

// line prints a line. text returns the text of a column.
func (t *itemTemplate[T]) line(w io.Writer, columns []Column[T], text func(Column[T]) string) error {
	data := map[string]string{}
	var names []string
	for _, c := range columns {
		data[c.name()] = text(c)
		names = append(names, c.name())
	}
	if err := t.Execute(w, data); err != nil {
		if _, name, unknown := strings.Cut(err.Error(), "map has no entry for key "); unknown {
			return UnknownWord(t.cmd, "column", "--format", strings.Trim(name, `"`), names)
		}
		return TemplateError(t.cmd, err)
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func (t *itemTemplate[T]) print(out io.Writer, items []T) error {
	columns, lines := t.columns(items), &bytes.Buffer{}
	if t.isTable {
		if err := t.line(lines, columns, header); err != nil {
			return err
		}
	}
	for _, item := range items {
		if err := t.line(lines, columns, func(c Column[T]) string { return c.whole(item) }); err != nil {
			return err
		}
	}
	if !t.isTable {
		_, err := lines.WriteTo(out)
		return err
	}
	table := tabwriter.NewWriter(out, 0, 1, 3, ' ', 0)
	_, err := lines.WriteTo(table)
	return errors.Join(err, table.Flush())
}

// A Column is a column of a list. Its key for --filter and --sort is its header in lower case, with _ between words.
// Its name in templates is MemoryFree for MEMORY FREE.
type Column[T any] struct {
	Header string
	Cell   func(T) string // an empty cell is shown as -
	// Whole is the text of which Cell is an abbreviation. --format prints it, and --filter also matches it. If it is
	// nil, that is Cell.
	Whole func(T) string
	// Compare is the order of --sort. If it is nil, items are sorted by the text. See By.
	Compare func(x, y T) int
	Wide    bool                // only -o wide shows the column
	Below   func(T) string      // a second line in the column; nil or "" for none
	Paint   func(string) string // colours a cell; can be nil
}

// By returns a Column.Compare by a value of the items.
func By[T any, V cmp.Ordered](value func(T) V) func(x, y T) int {
	return func(x, y T) int { return cmp.Compare(value(x), value(y)) }
}

// Time returns a column that shows how long ago a time was.
func Time[T any](a *App, header string, at func(T) time.Time) Column[T] {
	return Column[T]{
		Header: header, Cell: func(item T) string { return Ago(a.Now(), at(item)) },
		Compare: func(x, y T) int { return at(x).Compare(at(y)) },
	}
}

// Volume returns a column of names of volumes, which shortens the generated name of an anonymous volume.
func Volume[T any](header string, name func(T) string) Column[T] {
	return Column[T]{Header: header, Cell: func(item T) string { return ShortName(name(item)) }, Whole: name}
}

// UUID returns a column of UUIDs, which are as short as the items of the table allow.
func UUID[T any](header string, items []T, id func(T) uuid.UUID) Column[T] {
	ids := make([]uuid.UUID, 0, len(items))
	for _, item := range items {
		ids = append(ids, id(item))
	}
	short := Shorten(ids)
	return Column[T]{
		Header: header, Cell: func(item T) string { return short(id(item)) },
		Whole: func(item T) string { return id(item).String() },
	}
}

func (c Column[T]) key() string { return strings.ReplaceAll(strings.ToLower(c.Header), " ", "_") }

// name returns the name in templates: UsePercent for USE%, WritePerSecond for WRITE/S.
func (c Column[T]) name() string {
	var b strings.Builder
	for w := range strings.FieldsSeq(strings.NewReplacer("%", " percent", "/S", " per second").Replace(c.Header)) {
		if w == "UUID" || w == "URL" || w == "ID" {
			b.WriteString(w)
			continue
		}
		b.WriteString(strings.ToUpper(w[:1]) + strings.ToLower(w[1:]))
	}
	return b.String()
}

// cell returns the text of an item without control characters, or "" if there is none.
func (c Column[T]) cell(item T) string {
	if text := Clean(c.Cell(item)); text != "-" {
		return text
	}
	return ""
}

func (c Column[T]) whole(item T) string {
	if c.Whole == nil {
		return c.cell(item)
	}
	return Clean(c.Whole(item))
}

// find returns the column with a key.
func find[T any](columns []Column[T], key string) (Column[T], bool) {
	i := slices.IndexFunc(columns, func(c Column[T]) bool { return c.key() == key })
	if i < 0 {
		return Column[T]{}, false
	}
	return columns[i], true
}

func keys[T any](columns []Column[T]) []string {
	names := make([]string, 0, len(columns))
	for _, c := range columns {
		names = append(names, c.key())
	}
	return names
}

// ListTable returns the table of items. Columns for -o wide are left out unless wide is set.
func ListTable[T any](columns []Column[T], items []T, wide bool) *Table {
	if !wide {
		columns = slices.DeleteFunc(slices.Clone(columns), func(c Column[T]) bool { return c.Wide })
	}
	headers := make([]string, 0, len(columns))
	for _, c := range columns {
		headers = append(headers, c.Header)
	}
	t := NewTable(headers...)
	for i, c := range columns {
		if c.Paint != nil {
			t.Paint(i, c.Paint)
		}
	}
	for _, item := range items {
		cells := make([]string, 0, len(columns))
		for _, c := range columns {
			cells = append(cells, c.Cell(item))
		}
		t.Row(cells...)
		for i, c := range columns {
			if c.Below != nil && c.Below(item) != "" {
				t.Below(i, c.Below(item))
			}
		}
	}
	return t
}

// Labels returns the labels of items; see List.Labels.
type Labels[T any] func(context.Context, Remote) (func(T) map[string]string, error)

// OwnLabels is List.Labels for items that contain their labels.
func OwnLabels[T any](labels func(T) map[string]string) Labels[T] {
	return func(context.Context, Remote) (func(T) map[string]string, error) { return labels, nil }
}

// templateFunctions are the functions of templates, named as Docker's.
var templateFunctions = template.FuncMap{
	"json": func(v any) (string, error) {
		b, err := json.Marshal(v)
		return string(b), err
	},
	"join": func(list []any, separator string) string {
		var words []string
		for _, v := range list {
			words = append(words, fmt.Sprint(v))
		}
		return strings.Join(words, separator)
	},
	"lower": strings.ToLower,
	"upper": strings.ToUpper,
}

// ParseTemplate parses the value of --format, a template of package text/template. As in Docker, \t and \n stand for
// the characters, because a shell does not expand them.
func ParseTemplate(cmd *cobra.Command, text string) (*template.Template, error) {
	text = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text)
	t, err := template.New("").Funcs(templateFunctions).Parse(text)
	if err != nil {
		return nil, TemplateError(cmd, err)
	}
	return t, nil
}

// TemplateError is the usage error for a template that cannot be parsed or executed.
func TemplateError(cmd *cobra.Command, err error) error {
	return UsageError(cmd, "--format: %s", strings.Replace(err.Error(), "template: :", "line ", 1))
}

// printObject prints an item with a template whose names are those of the JSON output. A field that the item does not
// have prints nothing.
func (a *App) printObject(cmd *cobra.Command, t *template.Template, item any) error {
	b, err := json.Marshal(item)
	if err != nil {
		return err
	}
	var object any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&object); err != nil {
		return err
	}
	var out strings.Builder
	if err := t.Execute(&out, cleaned(object)); err != nil {
		return TemplateError(cmd, err)
	}
	_, err = fmt.Fprintln(a.Out, strings.ReplaceAll(out.String(), "<no value>", ""))
	return err
}

// cleaned returns decoded JSON without control characters, which could control the terminal.
func cleaned(v any) any {
	switch v := v.(type) {
	case string:
		return Clean(v)
	case map[string]any:
		for key := range v {
			v[key] = cleaned(v[key])
		}
	case []any:
		for i := range v {
			v[i] = cleaned(v[i])
		}
	}
	return v
}
