package bench

import (
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// The ranks of the usual tables for the interval of the sign test (9: the 2nd to the 8th, 30: the 10th to the 21st
// …), as the number of samples that are left out.
func TestCut(t *testing.T) {
	for n, want := range map[int]int{1: 0, 5: 0, 6: 0, 8: 0, 9: 1, 10: 1, 12: 2, 15: 3, 17: 4, 20: 5, 25: 7, 30: 9, 31: 9, 40: 13, 50: 17, 100: 39} {
		if got := tailSize(n); got != want {
			t.Errorf("tailSize(%d) = %d, want %d", n, got, want)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		samples []float64
		want    interval
	}{
		{[]float64{7}, interval{7, 7, 7}},
		{[]float64{3, 1, 2}, interval{2, 1, 3}},
		{[]float64{4, 1, 3, 2}, interval{2.5, 1, 4}},
		{[]float64{9, 8, 7, 6, 5, 4, 3, 2, 1}, interval{5, 2, 8}},
	} {
		before := append([]float64(nil), c.samples...)
		if got := median(c.samples); got != c.want {
			t.Errorf("median(%v) = %v, want %v", before, got, c.want)
		}
		for i := range before {
			if c.samples[i] != before[i] {
				t.Errorf("median sorted its argument: %v", c.samples)
				break
			}
		}
	}
	if got := median(nil); !math.IsNaN(got.mid) || !math.IsNaN(got.low) || !math.IsNaN(got.high) {
		t.Errorf("median of nothing = %v, want NaN", got)
	}
}

func TestMedianLiesInItsInterval(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SliceOfN(rapid.Float64Range(-1e6, 1e6), 1, 200).Draw(t, "samples")
		if m := median(s); m.low > m.mid || m.mid > m.high {
			t.Fatalf("median %v is outside of %v to %v", m.mid, m.low, m.high)
		}
	})
}

// The interval contains the true median as often as claimed, for samples of a skewed distribution, as times are.
func TestIntervalHoldsTheTrueMedian(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const rounds = 4000
	for _, n := range []int{9, 30, 31} {
		held := 0
		for range rounds {
			s := make([]float64, n)
			for i := range s {
				s[i] = r.ExpFloat64()
			}
			if m := median(s); m.low <= math.Ln2 && math.Ln2 <= m.high {
				held++
			}
		}
		if share := float64(held) / rounds; share < 0.945 {
			t.Errorf("%d samples: the interval holds the median in %.3f of the runs, want %.2f", n, share, confidence)
		}
	}
}

func TestPairs(t *testing.T) {
	if got := ratios([]float64{1, 2}, []float64{3, 1}); got[0] != 3 || got[1] != 0.5 {
		t.Errorf("ratios = %v, want [3 0.5]", got)
	}
	if got := subtractMedian([]float64{5, 9, 4}, []float64{3, 1, 80}); got[0] != 2 || got[1] != 6 || got[2] != 1 {
		t.Errorf("subtractMedian = %v, want [2 6 1]", got)
	}
}

func TestGoals(t *testing.T) {
	for _, c := range []struct {
		g    goal
		i    interval
		want string
	}{
		{atMost(1.5), interval{1.4, 1.3, 1.6}, "met"},
		{atMost(1.5), interval{1.6, 1.49, 1.7}, "met"},
		{atMost(1.5), interval{1.6, 1.51, 1.7}, "missed"},
		{atMost(1.5), interval{2, 1.9, 2.1}, "missed by more than a quarter"},
		{atLeast(0.98), interval{0.97, 0.95, 0.99}, "met"},
		{atLeast(0.98), interval{0.97, 0.95, 0.975}, "missed"},
		{atLeast(2000), interval{1500, 1400, 1550}, "missed by more than a quarter"},
		{goal{}, interval{1, 1, 1}, ""},
	} {
		if got := c.g.verdict(c.i); got != c.want {
			t.Errorf("%v of %v: %q, want %q", c.g, c.i, got, c.want)
		}
	}
}
