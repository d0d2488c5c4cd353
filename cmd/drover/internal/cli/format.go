package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"

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
