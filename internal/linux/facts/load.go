package facts

import (
	"math"
	"time"
)

// Average computes the load of ten minutes, which the kernel does not provide. The kernel's load averages decay
// exponentially with time (kernel/sched/loadavg.c). From two consecutive values of the load of one minute, Average
// computes how many tasks wanted to run in between. It adds that number to its average with the decay of ten minutes.
// Its initial value is between the loads of 5 and 15 minutes. Not safe for concurrent use.
type Average struct {
	begun bool
	at    time.Duration
	load1 float64
	load  float64
}

// Add adds the load of one minute at a time of a steady clock, and returns the load of ten minutes. first is the
// initial value of the average.
func (a *Average) Add(at time.Duration, load1, first float64) float64 {
	passed := at - a.at
	switch {
	case !a.begun:
		a.begun, a.load = true, first
	case passed <= 0:
		return a.load
	default:
		left1, left10 := decay(passed, time.Minute), decay(passed, 10*time.Minute)
		tasks := max(0, (load1-a.load1*left1)/(1-left1))
		a.load = a.load*left10 + tasks*(1-left10)
	}
	a.at, a.load1 = at, load1
	return a.load
}

// decay returns the weight, from 0 to 1, that the old value of an average keeps after the time passed. over is the
// period of the average.
func decay(passed, over time.Duration) float64 { return math.Exp(-float64(passed) / float64(over)) }
