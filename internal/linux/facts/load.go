package facts

import (
	"math"
	"time"
)

// Average is the load of ten minutes, which the kernel does not keep. It works as the
// kernel's own ones do (kernel/sched/loadavg.c), which fade with the time since: what
// the one of a minute says now, less what is left in it of what it said before, is how
// many tasks wanted to run meanwhile, and that goes into the one of ten minutes. It
// begins between those of 5 and 15 minutes. Not safe for concurrent use.
type Average struct {
	begun bool
	at    time.Duration
	load1 float64
	load  float64
}

// Add takes in the load of one minute at a moment of a steady clock and returns that
// of ten; first is what it begins with.
func (a *Average) Add(at time.Duration, load1, first float64) float64 {
	passed := at - a.at
	switch {
	case !a.begun:
		a.begun, a.load = true, first
	case passed <= 0:
		return a.load
	default:
		left, left10 := fade(passed, time.Minute), fade(passed, 10*time.Minute)
		tasks := max(0, (load1-a.load1*left)/(1-left))
		a.load = a.load*left10 + tasks*(1-left10)
	}
	a.at, a.load1 = at, load1
	return a.load
}

// fade is the remaining part of an average over one time after another time has passed.
func fade(passed, over time.Duration) float64 { return math.Exp(-float64(passed) / float64(over)) }
