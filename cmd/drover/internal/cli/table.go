package cli

import (
	"cmp"
	"io"
	"strings"
	"unicode/utf8"
)

// gap separates two columns.
const gap = "   "

// Table is a table with headers. Each column is as wide as its widest cell, and no cell is cut. An empty table prints
// its headers. Not safe for concurrent use.
type Table struct {
	rows  [][]string
	paint map[int]func(string) string
}

// NewTable starts a table with its headers.
func NewTable(headers ...string) *Table {
	return &Table{rows: [][]string{headers}, paint: map[int]func(string) string{}}
}

// Row adds a row. It cleans the cells (see Clean), and shows an empty cell as "-".
func (t *Table) Row(cells ...string) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = cmp.Or(Clean(c), "-")
	}
	t.rows = append(t.rows, row)
}

// Below adds a line below the last row with a cell in one column. The other cells of the line are blank.
func (t *Table) Below(column int, cell string) {
	row := make([]string, len(t.rows[0]))
	row[column] = Clean(cell)
	t.rows = append(t.rows, row)
}

// Paint makes Write colour the cells of a column with f. The colours do not affect the width of the column. The header
// is not coloured.
func (t *Table) Paint(column int, f func(string) string) { t.paint[column] = f }

// Write prints the table; the last column is not padded.
func (t *Table) Write(w io.Writer) error {
	widths := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	line, widest := 1, 0 // the length of a line, and the width of the widest column
	for _, w := range widths {
		line, widest = line+w+len(gap), max(widest, w)
	}
	blanks := strings.Repeat(" ", widest+len(gap))
	var b strings.Builder
	b.Grow(line * len(t.rows))
	for n, row := range t.rows {
		for i, c := range row {
			width := utf8.RuneCountInString(c)
			if f := t.paint[i]; f != nil && n > 0 {
				c = f(c)
			}
			b.WriteString(c)
			if i < len(row)-1 {
				b.WriteString(blanks[:widths[i]-width+len(gap)])
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Form shows one object as lines of a name and its values. Not safe for concurrent use.
type Form struct {
	names  []string
	values [][]string
}

// Add adds a line. Further values are on separate lines below the first one. If there is no value, or all are empty, it
// adds nothing, because the field does not apply.
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
