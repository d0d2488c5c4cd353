// Package bench prints the figures of Drover. They are ratios to something else that is measured in the same run
// on the same machine, since absolute times mean little on another machine. `make bench` runs it;
// docs/performance.md has the results of a run, and says how each figure is measured.
//
// Everything that is compared is measured alternately, so that other load of the machine affects both. No test fails
// because of a time; the tests here only check counts. Only the benchmarks and tests of the package call it. It keeps
// no state: its functions compute medians and print rows.
package bench

import (
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
