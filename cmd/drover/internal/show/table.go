package show

import (
	"io"
	"strings"
	"unicode/utf8"
)

// gap separates two columns.
const gap = "   "

// Table is rows under headers, each column as wide as its widest cell and no
// cell cut. An empty table prints its headers. Not safe for concurrent use.
type Table struct {
	rows  [][]string
	paint map[int]func(string) string
}

// NewTable starts a table with its headers.
func NewTable(headers ...string) *Table {
	return &Table{rows: [][]string{headers}, paint: map[int]func(string) string{}}
}

// Row adds a row; cells are cleaned, and an empty one is shown as "-".
func (t *Table) Row(cells ...string) {
	row := make([]string, len(cells))
	for i, c := range cells {
		if row[i] = Clean(c); c == "" {
			row[i] = "-"
		}
	}
	t.rows = append(t.rows, row)
}

// Below adds a cell below that of the last row in a column; those beside it are blank.
func (t *Table) Below(column int, cell string) {
	row := make([]string, len(t.rows[0]))
	row[column] = Clean(cell)
	t.rows = append(t.rows, row)
}

// Paint colours the cells of a column, headers not, after they are laid out.
func (t *Table) Paint(column int, f func(string) string) { t.paint[column] = f }

// Write prints the table; the last column is not padded.
func (t *Table) Write(w io.Writer) error {
	widths := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for n, row := range t.rows {
		for i, c := range row {
			pad := ""
			if i < len(row)-1 {
				pad = strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c)) + gap
			}
			if f := t.paint[i]; f != nil && n > 0 {
				c = f(c)
			}
			b.WriteString(c + pad)
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Form is names with values under one another, for looking at one thing. Not
// safe for concurrent use.
type Form struct {
	names  []string
	values [][]string
}

// Add adds a line. Further values are on lines of their own below the first. With
// no value, or only empty ones, nothing is added: what does not apply is left out.
func (f *Form) Add(name string, values ...string) {
	var lines []string
	for _, v := range values {
		if v != "" {
			lines = append(lines, Clean(v))
		}
	}
	if len(lines) > 0 {
		f.names, f.values = append(f.names, name+":"), append(f.values, lines)
	}
}

// Write prints the form with the values in one column.
func (f *Form) Write(w io.Writer) error {
	width := 0
	for _, n := range f.names {
		width = max(width, utf8.RuneCountInString(n))
	}
	var b strings.Builder
	for i, n := range f.names {
		for j, v := range f.values[i] {
			if j > 0 {
				n = ""
			}
			b.WriteString(n + strings.Repeat(" ", width-utf8.RuneCountInString(n)+2) + v + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
