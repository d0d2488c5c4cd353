package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/test/cluster"
)

// tally counts what a campaign did, by outcome. The last line of its output shows that it did something.
type tally struct {
	mu sync.Mutex
	n  map[string]int
}

func (r *tally) count(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n == nil {
		r.n = map[string]int{}
	}
	r.n[what]++
}

// String lists the counts.
func (r *tally) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(r.n)) {
		parts = append(parts, fmt.Sprint(what, " ", r.n[what]))
	}
	return strings.Join(parts, ", ")
}

// checkTime fails the test if a request took longer than Docker waits.
func checkTime(t testing.TB, what string, began time.Time) {
	if took := time.Since(began); took > cluster.Limit {
		t.Errorf("%s took %s", what, took)
	}
}
