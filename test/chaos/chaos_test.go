package chaos_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/chaos"
	"github.com/droverhq/drover/test/engine"
)

func TestMain(m *testing.M) {
	chaos.Play()
	engine.Main(m)
}

// number returns a number from the environment, or a default.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// round is the number of seconds of one campaign within a longer run. Its notes must be searched, and a longer
// history of requests is harder to check.
const round = 60

// TestChaos runs campaigns one after the other on one cluster, for CHAOS_SECONDS and beginning with CHAOS_SEED. Each
// campaign uses the next seed, so that it can be run alone. Without these variables, the short form runs the first
// campaign, which restores the store from a backup, and the long form another one.
func TestChaos(t *testing.T) {
	seconds, seed := number(t, "CHAOS_SECONDS", long.Rounds(1, 2)*round), number(t, "CHAOS_SEED", 1)
	c := chaos.New(t, os.Getenv("CHAOS_OFF"))
	var all chaos.Report
	for at := 0; at < seconds && !t.Failed(); at += round {
		r := chaos.Run(t, c, chaos.Options{Seed: uint64(seed), Seconds: min(round, seconds-at)})
		reasons := fmt.Sprintf("%d reasons of refusals", len(r.Reasons))
		for why, n := range r.Reasons {
			reasons += fmt.Sprintf("\n%4d × %s", n, why)
		}
		t.Log(reasons)
		t.Log(r)
		all.Add(r)
		seed++
	}
	t.Logf("in all, to %s", all)
}

// Faults that campaigns have found, by their seeds. The timing differs from run to run, so each fault also has a
// separate test, which is named here.
func TestFound(t *testing.T) {
	long.Only(t)
	c := chaos.New(t, "")
	for _, f := range []struct {
		seed uint64
		what string
	}{
		{1, "nobody started an agent anew that its guard had to kill: here, not in the product, whose unit does"},
		{8, "a head that was overtaken before its node had heard that it was the home was never kept aside: TestHomeSupersededBeforeItLearnedKeepsHead"},
		{12, "a mount ID stayed of a volume that its agent knew no more, and nobody could remove it: TestUnmountOfForgottenVolume, TestSyncOfRemovalBeforeArrivalIsIgnored"},
	} {
		t.Run(fmt.Sprint("seed ", f.seed), func(t *testing.T) {
			t.Log("found before: ", f.what)
			t.Log(chaos.Run(t, c, chaos.Options{Seed: f.seed, Seconds: round}))
		})
	}
}

// The faults of a seed are the same each time, and differ from those of another seed.
func TestPlan(t *testing.T) {
	first := func(seed uint64) (list []string) {
		for f := range chaos.Plan(seed) {
			list = append(list, fmt.Sprint(f))
			if f.Number == 500 {
				break
			}
		}
		return list
	}
	if diff := cmp.Diff(first(7), first(7)); diff != "" {
		t.Error(diff)
	}
	if slices.Equal(first(7), first(8)) {
		t.Error("another seed has the same faults")
	}
	for seed, want := range map[uint64]bool{1: true, 2: false, 4: false, 5: true} { // CI uses seed 1
		back := slices.ContainsFunc(first(seed), func(f string) bool { return strings.Contains(f, string(chaos.StoreRestored)) })
		if back != want {
			t.Errorf("seed %d: the store is restored: %t", seed, back)
		}
	}
}
