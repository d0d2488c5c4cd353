package cli

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

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
