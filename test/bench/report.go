package bench

import (
	"fmt"
	"io"
	"math"
)

// A goal limits a figure from above or from below. The zero value is no goal.
type goal struct {
	limit float64
	least bool
}

func atMost(limit float64) goal  { return goal{limit: limit} }
func atLeast(limit float64) goal { return goal{limit: limit, least: true} }

func (g goal) String() string {
	switch {
	case g.limit == 0:
		return ""
	case g.least:
		return "≥ " + number(g.limit)
	}
	return "≤ " + number(g.limit)
}

// faultFactor is the factor by which a figure may miss its goal. A figure that misses its goal by more indicates a
// fault.
const faultFactor = 1.25

// verdict says whether a goal is reached. It is missed if the whole interval misses it.
func (g goal) verdict(i interval) string {
	if g.limit == 0 {
		return ""
	}
	over := i.low / g.limit
	if g.least {
		over = g.limit / i.high
	}
	switch {
	case over > faultFactor:
		return "missed by more than a quarter"
	case over > 1:
		return "missed"
	}
	return "met"
}

// A row is one line of the report: two figures with their unit that were measured alternately, and their ratio;
// or a single figure instead of the ratio.
type row struct {
	what  string
	a, b  float64
	unit  string
	ratio interval
	goal  goal
}

// header writes the beginning of a table of rows.
func header(w io.Writer, a, b string) {
	fmt.Fprintf(w, "\n| %-58s | %12s | %12s | %-24s | %-8s | %s\n", "", a, b, "ratio [95 %]", "goal", "")
	fmt.Fprintf(w, "|%s|%s:|%s:|%s|%s|---\n", dashes(60), dashes(13), dashes(13), dashes(26), dashes(10))
}

func dashes(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = '-'
	}
	return string(b)
}

func (r row) print(w io.Writer) {
	fmt.Fprintf(w, "| %-58s | %12s | %12s | %-24s | %-8s | %s\n", r.what, amount(r.a, r.unit), amount(r.b, r.unit),
		r.ratio, r.goal, r.goal.verdict(r.ratio))
}

func (i interval) String() string {
	if math.IsNaN(i.mid) {
		return ""
	}
	if i.low == i.mid && i.high == i.mid {
		return number(i.mid)
	}
	return fmt.Sprintf("%s [%s, %s]", number(i.mid), number(i.low), number(i.high))
}

// amount returns a figure with its unit, or "" for NaN.
func amount(v float64, unit string) string {
	if math.IsNaN(v) {
		return ""
	}
	if unit == "" {
		return number(v)
	}
	return number(v) + " " + unit
}

// number returns three significant digits, or the whole number if it has more.
func number(v float64) string {
	switch size := math.Abs(v); {
	case size >= 100 || v == math.Trunc(v) && size >= 10:
		return fmt.Sprintf("%.0f", v)
	case size >= 10:
		return fmt.Sprintf("%.1f", v)
	case size >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}
