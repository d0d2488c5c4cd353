package long

import "testing"

// The short form leaves out cells, but no row and no column. The long form has all cells.
func TestTurn(t *testing.T) {
	for _, c := range []struct{ rows, columns, n, short int }{
		{1, 1, 4, 1},
		{5, 1, 2, 5},
		{1, 5, 2, 5},
		{2, 2, 2, 2},
		{3, 2, 2, 3},
		{4, 4, 2, 8},
		{4, 3, 4, 4},
		{5, 7, 3, 12},
		{8, 8, 4, 16},
		{3, 3, 1, 9},
		{3, 3, 0, 9},
	} {
		for _, form := range []string{"", "1"} {
			t.Setenv("DROVER_TEST_LONG", form)
			n, rows, columns := 0, map[int]bool{}, map[int]bool{}
			for row := range c.rows {
				for column := range c.columns {
					if Turn(row, c.rows, column, c.columns, c.n) {
						rows[row], columns[column] = true, true
						n++
					}
				}
			}
			want := c.short
			if form != "" {
				want = c.rows * c.columns
			}
			if n != want || len(rows) != c.rows || len(columns) != c.columns {
				t.Errorf("%+v, long form %q: %d cells in %d rows and %d columns, want %d in all rows and columns",
					c, form, n, len(rows), len(columns), want)
			}
		}
	}
}
