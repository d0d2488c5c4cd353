package operation

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/droverhq/drover/dataset"
)

// The wait after a failed attempt to settle a conversion doubles up to five minutes, unless the attempt did not read all
// records.
func TestNextSettleWait(t *testing.T) {
	var waits []time.Duration
	wait := time.Duration(0)
	for i := range 12 {
		wait = nextSettleWait(wait, time.Second, i != 10)
		waits = append(waits, wait/time.Second)
	}
	if want := []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 1, 2}; !slices.Equal(waits, want) {
		t.Errorf("%v, want %v", waits, want)
	}
}

// Each change of the failure is logged. If control does not answer, a change of the text is no change.
func TestFailureOfSettle(t *testing.T) {
	unreachable := func(port string) string {
		return failureOf(dataset.Errorf(dataset.ErrUnavailable, "from port %s", port))
	}
	if unreachable("1") != unreachable("2") {
		t.Error("another port counts as another failure")
	}
	if failureOf(errors.New("the disk is full")) == failureOf(errors.New("the disk is broken")) {
		t.Error("two failures count as one")
	}
}
