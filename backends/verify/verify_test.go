package verify

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) { os.Exit(scratch.Main(m)) }

// judged runs the suite in an empty folder, and fails if the folder is not empty afterwards.
func judged(t *testing.T, kind backends.Kind, claims func(Claims) Claims) *Report {
	t.Helper()
	path := t.TempDir()
	require.NoError(t, unix.Mount("none", path, "tmpfs", 0, "size=2g"))
	defer func() {
		assert.NoError(t, unix.Unmount(path, 0))
	}()
	var r Report
	var there Claims
	if err := Suite(t.Context(), kind, path, func(e Event) error {
		if e.Info != nil {
			there = *e.Info
		}
		r.Add(e)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	require.NoError(t, r.Judge(claims(there).Capabilities, there.Capabilities))
	if left, err := os.ReadDir(path); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
	return &r
}

func same(c Claims) Claims { return c }

func (r *Report) of(t *testing.T, name string) Verdict {
	t.Helper()
	i := slices.IndexFunc(r.Capabilities, func(v Verdict) bool { return v.Name == name })
	if i < 0 {
		t.Fatalf("nothing is said of %s: %+v", name, r.Capabilities)
	}
	return r.Capabilities[i]
}

func TestDirProvesWhatItClaims(t *testing.T) {
	r := judged(t, dir.Backend{}, same)
	if !r.OK || r.Rest.Proven != Proven || len(r.Cases) != Count() {
		t.Errorf("%d cases, %+v", len(r.Cases), r)
	}
	for name, want := range map[string]Proof{
		"clone_independent": Proven,
		"enforces_size":     Absent,
		"delta":             Absent,
		"filesystems":       Absent,
	} {
		if v := r.of(t, name); v.Proven != want || v.Cases == 0 {
			t.Errorf("%s is %+v, want %s", name, v, want)
		}
	}
	var told []string
	for _, one := range r.Times {
		told = append(told, one.What)
		if one.Seconds <= 0 {
			t.Errorf("%s took no time", one.What)
		}
	}
	if want := []string{"create", "clone", "snapshot", "restore", "delete"}; !slices.Equal(told, want) {
		t.Errorf("times of %q, want %q", told, want)
	}
	if len(r.Skipped) != 1 || !strings.Contains(r.Skipped[0], "power") {
		t.Errorf("skipped %q", r.Skipped)
	}
}

// liar is backend dir, but claims that it takes snapshots without copying.
type liar struct {
	dir.Backend
	panics bool
}

type lyingPool struct {
	backends.Pool
	liar
}

func (l liar) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	pool, err := l.Backend.Open(ctx, cfg)
	return lyingPool{pool, l}, err
}

func (p lyingPool) Info() backends.Info {
	info := p.Pool.Info()
	info.Capabilities.InstantSnapshot = true
	return info
}

func (p lyingPool) Raise(n uint64) error {
	if p.panics && n == 7 {
		panic("at seven")
	}
	return p.Pool.Raise(n)
}

func TestLiarIsFound(t *testing.T) {
	r := judged(t, liar{panics: true}, same)
	if v := r.of(t, "instant_snapshot"); r.OK || v.Proven != Unproven || v.Claimed != "yes" || len(v.Failures) == 0 {
		t.Errorf("it is believed: %+v", v)
	}
	if v := r.of(t, "clone_independent"); v.Proven != Proven {
		t.Errorf("the truth is not: %+v", v)
	}
	if r.Rest.Proven != Unproven || !strings.Contains(strings.Join(r.Rest.Failures, "\n"),
		"GenerationIsRaised: panic: at seven") {
		t.Errorf("the rest is %+v", r.Rest)
	}
}

// If a pool claims something else than a new pool beside it, that claim counts as unproven.
func TestPoolOfOtherClaims(t *testing.T) {
	r := Report{Cases: []Result{{Name: "a", Proves: []string{"shrink"}}, {Name: "b"}}}
	var claimed, there Claims
	claimed.Capabilities.Shrink = true
	require.NoError(t, r.Judge(claimed.Capabilities, there.Capabilities))
	if v := r.of(t, "shrink"); r.OK || v.Proven != Unproven {
		t.Errorf("%+v", v)
	}
	if v := r.of(t, "delta"); v.Proven != Untried {
		t.Errorf("without a case: %+v", v)
	}
}

func TestStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := Suite(ctx, dir.Backend{}, t.TempDir(), func(e Event) error {
		if n++; n == 5 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
}
