package guard_test

import (
	"testing"
	"time"

	"github.com/droverhq/drover/guard"
)

// If a host has so many more processes than at the registration that a fence can take longer than the other nodes
// wait for it, a feed extends the deadline by that much less.
func TestFeedRenewsTheBound(t *testing.T) {
	const few, many = 200, 20_000
	before, after := 3*time.Second, 3*8500*time.Millisecond // for three rungs
	for name, c := range map[string]struct {
		most, want time.Duration
	}{
		"as was known at the registration": {0, time.Minute - (after - before)},
		"as long as a slower fence":        {after - time.Second, time.Minute - time.Second},
		"as long as the fence may take":    {after, time.Minute},
		"longer":                           {after + time.Minute, time.Minute},
		"too short for any other deadline": {time.Millisecond, time.Minute - after + time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.processes.Store(few)
			r := b.registered(t, guard.PolicyKill, 10*time.Second)
			b.processes.Store(many)
			feed := guard.Feed{Dataset: r.Dataset, Epoch: r.Epoch, Deadline: b.clock.Boottime() + time.Minute, MaxFenceTime: c.most}
			if refused := b.Feed([]guard.Feed{feed}); len(refused) > 0 {
				t.Fatal(refused)
			}
			e := b.entry(r.Dataset)
			if e.Bound != after || e.Deadline-b.clock.Boottime() != c.want {
				t.Errorf("bound %v, %v ahead, want %v and %v", e.Bound, e.Deadline-b.clock.Boottime(), after, c.want)
			}
			// A deadline that would already have passed changes nothing: the previous feed stays valid.
			feed.Deadline, feed.MaxFenceTime = b.clock.Boottime()+time.Second, time.Millisecond
			if refused := b.Feed([]guard.Feed{feed}); len(refused) > 0 || b.entry(r.Dataset).Deadline != e.Deadline {
				t.Errorf("%v: %v", refused, b.entry(r.Dataset).Deadline)
			}
			// The bound shrinks again, so deadlines are not shortened for longer than needed.
			b.processes.Store(few)
			if err := b.feed(r, r.Epoch, 2*time.Minute); err != nil || b.entry(r.Dataset).Bound != before {
				t.Errorf("%v, bound %v, want %v", err, b.entry(r.Dataset).Bound, before)
			}
		})
	}
}
