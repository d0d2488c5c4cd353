package chaos_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
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

const (
	takeovers = "^TestTakeoversDoNotOverlap$/^seed_SEED$"
	overlap   = `\w+ writes at epoch \d and \w+ at epoch \d`
)

// TestProtections shows that each protection is needed: those against two writers, and those against changes that are
// lost between two decisions. With a protection switched off, each of its seeds fails. With the protection, the seed
// passes. These are seeds of simulations: the real code of control, of promises and of the guard, with agents, the
// network and clocks played by the test. So a seed is the same schedule each time, and a second is enough for
// hundreds of seeds. The short form plays the first seed of each protection.
func TestProtections(t *testing.T) {
	programs := map[string]string{}
	for _, p := range []struct {
		off, in, test string
		seeds         []int
		red           string
	}{
		// A report of an epoch that has ended changes nothing.
		{"epoch", "control/relocation", "^TestEpochsDoNotOverlap$", []int{2, 4, 6}, `a change by \w+ at epoch \d is on record, and that is at epoch \d|snapshot \S+ is lost, and on record`},
		// A decision is repeated if anything that it read has changed, and not only if something that it writes has
		// changed.
		{"read-set", "control/relocation", "^TestEpochsDoNotOverlap$", []int{3, 4, 7}, "a report of a replaced process is accepted"},
		// A lease with a deadline is fenced at the deadline by the guard, whether or not its agent is alive.
		{"guard", "control/relocation", takeovers, []int{5, 7, 8}, overlap},
		// A home is failed over only after it was silent for as long as it may still write.
		{"margin", "control/relocation", takeovers, []int{3, 5, 11}, overlap},
		// A node opens no epoch before its promises have expired.
		{"promise", "control/relocation", takeovers, []int{8, 9, 10}, overlap},
	} {
		if programs[p.in] == "" {
			programs[p.in] = build(t, p.in)
		}
		for _, seed := range p.seeds[:long.Rounds(1, len(p.seeds))] {
			t.Run(fmt.Sprint("without ", p.off, ", seed ", seed), func(t *testing.T) {
				args := []string{"-test.run", strings.ReplaceAll(p.test, "SEED", fmt.Sprint(seed)), "-rapid.seed", fmt.Sprint(seed)}
				if out, err := play(programs[p.in], p.in, "", args); err != nil {
					t.Errorf("fails with the protection as well: %v\n%s", err, out)
				}
				if out, err := play(programs[p.in], p.in, p.off, args); err == nil || !regexp.MustCompile(p.red).MatchString(out) {
					t.Errorf("passes without the protection: %v\n%s", err, out)
				}
			})
		}
	}
}

// build compiles the tests of a package, with protections that can be switched off.
func build(t *testing.T, in string) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), filepath.Base(in)+".test")
	if out, err := exec.Command("go", "test", "-tags", "steps", "-c", "-o", program, "../../"+in).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// play runs one simulation, without a protection.
func play(program, in, off string, args []string) (string, error) {
	cmd := exec.Command(program, append(args, "-test.v", "-rapid.checks=300", "-rapid.shrinktime=0s", "-rapid.nofailfile")...)
	cmd.Dir = filepath.Join("..", "..", in)
	cmd.Env = append(os.Environ(), "DROVER_OFF="+off)
	out, err := cmd.CombinedOutput()
	if err == nil && !strings.Contains(string(out), "--- PASS") {
		err = errors.New("nothing was played")
	}
	return string(out), err
}
