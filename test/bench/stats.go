// Package bench prints the figures of Drover. They are ratios to something else that is measured in the same run
// on the same machine, since absolute times mean little on another machine. `make bench` runs it;
// docs/performance.md has the results of a run, and says how each figure is measured.
//
// Everything that is compared is measured alternately, so that other load of the machine affects both. No test fails
// because of a time; the tests here only check counts. Only the benchmarks and tests of the package call it. It keeps
// no state: its functions compute medians and print rows.
package bench

import (
	"fmt"
	"io"
	"math"
	"slices"
)

// An interval is a median with the limits between which the true median is in 95 of 100 runs, in the unit of the
// samples.
type interval struct{ mid, low, high float64 }

// confidence is the share of runs whose interval must contain the true median.
const confidence = 0.95

// median returns the median of samples with its interval by order statistics, which assumes nothing about their
// distribution. For fewer than six samples there is no such interval, and median returns their range. Without samples,
// all values are NaN.
func median(samples []float64) interval {
	n := len(samples)
	if n == 0 {
		return interval{math.NaN(), math.NaN(), math.NaN()}
	}
	s := slices.Sorted(slices.Values(samples))
	mid := s[n/2]
	if n%2 == 0 {
		mid = (s[n/2-1] + s[n/2]) / 2
	}
	k := tailSize(n)
	return interval{mid, s[k], s[n-1-k]}
}

// tailSize returns how many of n sorted samples lie outside of the interval at each end: the
// number of samples below the true median is binomial with p = 1/2, so the interval from
// the (k+1)-th to the (n-k)-th sample misses it with probability 2·P(X <= k).
func tailSize(n int) int {
	k, below := 0, math.Exp2(-float64(n)) // P(X <= k)
	term := below                         // P(X = k)
	for {
		if 2*below > 1-confidence {
			return max(k-1, 0)
		}
		k++
		term *= float64(n-k+1) / float64(k)
		below += term
	}
}

// ratios divides each sample of b by the sample of a that was measured beside it.
func ratios(a, b []float64) []float64 {
	r := make([]float64, len(a))
	for i := range a {
		r[i] = b[i] / a[i]
	}
	return r
}

// subtractMedian subtracts the median of b from each sample of a. If it subtracted sample by sample, a rare value of
// either would look like a difference.
func subtractMedian(a, b []float64) []float64 {
	mid := median(b).mid
	r := make([]float64, len(a))
	for i := range a {
		r[i] = a[i] - mid
	}
	return r
}

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
