package agent_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// Get does not wait for what only control knows of a volume whose home is this node: the start of a container calls
// it five times (I7).
func TestI7GetDoesNotWaitForSilentControl(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.Link.HangSnapshots()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	v, err := r.Get(ctx, "db")
	if err != nil || ctx.Err() != nil {
		t.Fatalf("%v, %v", err, ctx.Err())
	}
	if problem, _ := v.Status["problem"].(string); v.Status["dataset"] != d.ID || !strings.Contains(problem, "its snapshots are unknown: ") {
		t.Errorf("%+v", v)
	}
}

// While control is unreachable the agent answers Get, List and Path, and mounts and unmounts the volumes whose home
// is this node, also after a restart. Other requests are refused at once, and the agent never reports that a volume
// does not exist.
func TestI7LocalVolumesWorkWithoutControl(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	require.NoError(t, r.Create(t.Context(), "db@bronze", nil))
	r.MustMount("db@bronze", "before")
	r.Link.Cut()
	for _, restarted := range []bool{false, true} {
		if restarted {
			r.Restart()
		}
		answersAlone(r, d)
		for call, err := range r.CallsByName("nosuch") {
			if !errors.Is(err, dataset.ErrUnavailable) || errors.Is(err, dataset.ErrNotFound) {
				t.Errorf("%s of a volume that may or may not be: %v", call, err)
			}
		}
		if err := r.Remove(t.Context(), "other"); !errors.Is(err, dataset.ErrUnavailable) {
			t.Errorf("remove of a volume that may or may not be: %v", err)
		}
		// The engine may unmount any name.
		assert.NoErrorf(t, r.Unmount(t.Context(), "nosuch", "id"), "unmount of an unknown volume")
		for _, spec := range []string{"new", "db"} {
			assert.ErrorIsf(t, r.Create(t.Context(), spec, nil), dataset.ErrUnavailable, "create of %s", spec)
		}
	}
	r.WantUses(d, "before")
	assert.NoError(t, r.Unmount(t.Context(), "db", "before"))
	r.WantUses(d)
	if err := r.Remove(t.Context(), "db@bronze"); err != nil { // the engine uses another spelling
		t.Error(err)
	}
	assert.ErrorIsf(t, r.Remove(t.Context(), "db"), dataset.ErrUnavailable, "remove")
	if got := len(r.ListPool("datasets")); got != 1 {
		t.Errorf("%d datasets in the pool", got)
	}

	// Control is reachable again: the agent learns what changed meanwhile, without a request.
	r.Link.Mend()
	protect := true
	_, err := r.Link.Service.Submit(t.Context(), api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: &protect})
	require.NoError(t, err)
	agenttest.Await(t, func() bool {
		r.FakeClock.Advance(r.Timing.Retry)
		now, _ := r.Cache.Dataset(d.ID)
		return now.Protected
	})
	if _, err := r.Get(t.Context(), "nosuch"); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("now the store says so: %v", err)
	}
}

// answersAlone fails unless every question about a volume whose home is this node is answered.
func answersAlone(r *agenttest.Host, d dataset.Dataset) {
	r.T.Helper()
	ctx := r.T.Context()
	for _, spelling := range []string{"db", "db@bronze"} {
		v, err := r.Get(ctx, spelling)
		if err != nil || v.Spelling != spelling || v.Mountpoint != r.MountPath(d.ID) {
			r.T.Errorf("get %s: %+v, %v", spelling, v, err)
		}
		if path, err := r.Path(ctx, spelling); err != nil || path != r.MountPath(d.ID) {
			r.T.Errorf("path of %s: %s, %v", spelling, path, err)
		}
	}
	if list, err := r.List(ctx); err != nil || len(list) != 2 {
		r.T.Errorf("list: %+v, %v", list, err)
	}
	r.MustMount("db", "meanwhile")
	r.WantUses(d, "before", "meanwhile")
	assert.NoError(r.T, r.Unmount(ctx, "db", "meanwhile"))
	r.WantUses(d, "before")
}

// A commit whose answer is lost is repeated, and is the same commit.
func TestCommitWithLostAnswerIsRepeated(t *testing.T) {
	r := agenttest.New(t)
	r.Link.LoseAnswers(1)
	done := make(chan error, 1)
	go func() { done <- r.Create(t.Context(), "db", nil) }()
	for lost := false; ; {
		select {
		case err := <-done:
			require.NoError(t, err)
			if d, ok := r.Cache.Volume("db"); !ok || len(r.ListPool("datasets")) != 1 || len(r.ListPool("incoming")) != 0 {
				t.Errorf("%+v, %t", d, ok)
			}
			return
		default:
			if lost = lost || r.Link.LostAnswers() == 1; lost {
				r.FakeClock.Advance(r.Timing.Retry)
			}
		}
	}
}

// An agent that stops before it knows the outcome of a commit learns the outcome at its next start. If the dataset is
// on record it is put in its place. Otherwise it is removed.
func TestRestartResolvesUncertainCommit(t *testing.T) {
	for name, c := range map[string]struct {
		lose, want int
	}{"recorded": {1, 1}, "not recorded": {0, 0}} {
		t.Run(name, func(t *testing.T) {
			r := agenttest.New(t)
			r.Link.LoseAnswers(c.lose)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.lose == 0 {
				r.Link.RefuseNext()
			}
			done := make(chan error, 1)
			go func() { done <- r.Create(ctx, "db", nil) }()
			agenttest.Await(t, func() bool { return r.Link.LostAnswers() > 0 })
			r.Restart()
			assert.ErrorIs(t, <-done, dataset.ErrUnavailable)
			if got := len(r.ListPool("datasets")); got != c.want || len(r.ListPool("incoming")) != 0 {
				t.Errorf("%d datasets, incoming %v; want %d", got, r.ListPool("incoming"), c.want)
			}
			if _, ok := r.Cache.Volume("db"); ok != (c.want == 1) {
				t.Errorf("the volume is known: %t", ok)
			}
			assert.NoErrorf(t, r.Create(t.Context(), "db", nil), "asked again")
			if got := len(r.ListPool("datasets")); got != 1 {
				t.Errorf("%d datasets", got)
			}
		})
	}
}

// A create does not wait long for control to register this node. The error says so, and nothing was created.
func TestI8CreateBeforeRegistrationFailsSoon(t *testing.T) {
	r := agenttest.New(t)
	cfg := r.Config
	r.Stop()
	r.Link.RefuseRegistrations()
	r.StartWith(cfg)
	done := make(chan error, 1)
	go func() { done <- r.Create(t.Context(), "new", nil) }()
	for {
		select {
		case err := <-done:
			if !errors.Is(err, dataset.ErrUnavailable) || !strings.Contains(err.Error(), "has not registered "+
				"this node") {
				t.Errorf("create: %v", err)
			}
			if _, err := r.Get(t.Context(), "new"); !errors.Is(err, dataset.ErrNotFound) {
				t.Errorf("get: %v", err)
			}
			return
		default:
			r.FakeClock.Advance(r.Timing.Retry)
			runtime.Gosched()
		}
	}
}
