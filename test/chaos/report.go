package chaos

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/test/cluster"
)

// Report is the result of a campaign.
type Report struct {
	Seed       uint64
	Faults     map[Kind]int
	Operations map[string]int // by outcome
	Reasons    map[string]int // for refusals, without names and numbers
	Writes     int            // writes that were flushed
	Overlaps   int            // writes under an old epoch after a newer one had begun
	Lost       int            // volumes that lack flushed writes
	Unended    int            // requests that took longer than Docker waits
	Unseen     int            // faults during which no writer ran
	Ended      int            // uses that ended while their containers ran
	Stuck      int            // strangers that a guard killed or did not continue
	Fence      time.Duration  // the longest time from a deadline to the end of its fence
}

type tally struct {
	mu sync.Mutex
	Report
}

func (r *tally) count(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Operations[what]++
}

// countReason counts the reason of a refusal.
func (r *tally) countReason(err error) {
	if err == nil {
		return
	}
	words := strings.Fields(err.Error())
	for i, w := range words {
		if strings.ContainsAny(w, "0123456789") || strings.Contains(w, "host-") {
			words[i] = "…"
		}
	}
	if len(words) > 24 {
		words = words[:24]
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Reasons[strings.Join(words, " ")]++
}

// ended fails the test if a request took longer than Docker waits.
func (r *tally) ended(t testing.TB, what string, took time.Duration) {
	if took <= cluster.Limit {
		return
	}
	t.Errorf("%s took %s", what, took)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Unended++
}

// Add adds another campaign. The seed becomes that of the other campaign.
func (r *Report) Add(other Report) {
	if r.Faults == nil {
		r.Faults, r.Operations = map[Kind]int{}, map[string]int{}
	}
	r.Seed = other.Seed
	for k, n := range other.Faults {
		r.Faults[k] += n
	}
	for k, n := range other.Operations {
		r.Operations[k] += n
	}
	r.Writes, r.Overlaps, r.Lost = r.Writes+other.Writes, r.Overlaps+other.Overlaps, r.Lost+other.Lost
	r.Ended, r.Stuck = r.Ended+other.Ended, r.Stuck+other.Stuck
	r.Unended, r.Unseen, r.Fence = r.Unended+other.Unended, r.Unseen+other.Unseen, max(r.Fence, other.Fence)
}

// String returns the last line of a campaign's output.
func (r Report) String() string {
	faults, n := list(r.Faults)
	operations, _ := list(r.Operations)
	return fmt.Sprintf("seed %d: %d faults (%s); %s; %d writes; overlaps %d, lost %d, unended %d, unseen "+
		"%d, ended uses %d, stuck strangers %d, longest fence %s",
		r.Seed, n, faults, operations, r.Writes, r.Overlaps, r.Lost, r.Unended, r.Unseen, r.Ended, r.Stuck, r.Fence)
}

func list[K ~string](m map[K]int) (text string, sum int) {
	var parts []string
	for k, n := range m {
		parts = append(parts, fmt.Sprintf("%s %d", k, n))
		sum += n
	}
	slices.Sort(parts)
	return strings.Join(parts, ", "), sum
}
