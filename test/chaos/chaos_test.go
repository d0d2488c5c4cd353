package chaos_test

import (
	"os"
	"strconv"
	"testing"

	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/chaos"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/require"
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
	require.NoErrorf(t, err, "%s", name)
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
	for at := 0; at < seconds && !t.Failed(); at += round {
		chaos.Run(t, c, chaos.Options{Seed: uint64(seed), Seconds: min(round, seconds-at)})
		seed++
	}
}
