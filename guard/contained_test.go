package guard_test

import (
	"slices"
	"testing"
	"time"

	"github.com/droverhq/drover/guard"
)

// If all holders are stopped and only other processes appear that have to be examined, the holders are not
// killed.
func TestContainedHoldersAreNotKilled(t *testing.T) {
	b := newBench(t)
	b.hand.fails = map[guard.Act]bool{guard.ActFreeze: true, guard.ActStop: true, guard.ActKill: true}
	b.hand.contained = true
	r := b.registered(t, guard.PolicyKill, time.Second)
	b.clock.advance(time.Second, false)
	await(t, "the ladder was climbed again", func() bool {
		b.clock.advance(time.Second, false)
		return len(b.hand.acts()) >= 6
	}, func() string { return "" })
	if got := b.hand.acts()[:6]; !slices.Equal(got, []guard.Act{guard.ActFreeze, guard.ActStop, guard.ActStop, guard.ActFreeze, guard.ActStop, guard.ActStop}) {
		t.Errorf("it did %v", got)
	}
	if e := b.entry(r.Dataset); e.State != guard.StateFencing {
		t.Errorf("it is %s", e.State)
	}
}
