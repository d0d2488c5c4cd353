package agent

import (
	"context"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
)

// startGuard is the command for a host whose guard does not answer.
const startGuard = "systemctl start drover-guard"

// watchGuard asks the guard for its state now and then until the agent stops, and has control notified when it
// changes.
func (a *Agent) watchGuard() {
	for {
		answer := a.deadlines.Answers()
		st, err := a.config.Guard.Status(a.Ctx)
		a.mu.Lock()
		was := a.guarded
		a.guarded = err == nil
		a.mu.Unlock()
		if was != (err == nil) {
			a.News.Soon()
		}
		a.takeGuard(st, answer)
		select {
		case <-a.Ctx.Done():
			return
		case <-a.Clock.After(a.Limits.Heartbeat):
		}
	}
}

func (a *Agent) isGuarded() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.guarded
}

// SeenGuard returns the present state of the guard. dataset.ErrUnavailable if it does not answer, ErrUnsupported
// if there is none.
func (a *Agent) SeenGuard(ctx context.Context) (guard.Status, error) {
	if a.config.Guard == nil {
		return guard.Status{}, dataset.Errorf(dataset.ErrUnsupported, "this host works alone, without a guard")
	}
	return a.config.Guard.Status(ctx)
}

// checkGuard adds findings on the guard, if there should be one.
func (a *Agent) checkGuard(ctx context.Context, r *diagnosis) {
	if a.config.Guard == nil {
		return
	}
	st, err := a.config.Guard.Status(ctx)
	if err != nil {
		r.Add(findings.Info, "guard", startGuard,
			"%v: no volume with failover auto is put on this host, or mounted", err)
		return
	}
	r.Add(findings.OK, "guard", "", "answers; it watches over %d datasets", len(st.Datasets))
	for _, m := range st.Missing {
		r.Add(findings.Warning, "guard", "run it by its unit, on the host itself", "is weaker than it should be: %s", m)
	}
	for _, e := range st.Datasets {
		if e.State == guard.StateFencing || e.State == guard.StateFenced {
			r.Add(findings.Error, "volume "+e.Volume, "",
				"is %s: nobody may write to it until control, or every node with a copy, vouches for it", e.State)
		}
	}
}

// entry returns the guard's record of a dataset on this boot.
func (a *Agent) entry(ctx context.Context, id uuid.UUID) (e guard.Entry, there bool, err error) {
	st, err := a.config.Guard.Status(ctx)
	if err != nil {
		return e, false, err
	}
	e, there = entryOf(st, id)
	return e, there, nil
}

func entryOf(st guard.Status, id uuid.UUID) (e guard.Entry, there bool) {
	i := slices.IndexFunc(st.Datasets, func(e guard.Entry) bool {
		return e.Dataset == id && e.State != guard.StateRebooted
	})
	if i < 0 {
		return e, false
	}
	return st.Datasets[i], true
}

func isFenced(e guard.Entry) bool {
	return e.State == guard.StateFencing || e.State == guard.StateFenced
}

// fenced reports whether a dataset is fenced. Only a confirmation of its epoch ends that. The error is why that
// is not known of a dataset that may be fenced.
func (a *Agent) fenced(id uuid.UUID) (bool, error) {
	return a.isFencedBy(id, func() (guard.Status, error) { return a.config.Guard.Status(a.Ctx) })
}

// isFencedBy is fenced with the guard's answer. The guard is asked only about datasets that may be fenced.
func (a *Agent) isFencedBy(id uuid.UUID, asked func() (guard.Status, error)) (bool, error) {
	if !a.mayBeFenced(id) {
		return false, nil
	}
	st, err := asked()
	e, there := entryOf(st, id)
	return err == nil && there && isFenced(e), err
}

// mayBeFenced reports whether the guard may have a dataset. If nothing is known of it here, as after a loss of
// the agent's database, it may.
func (a *Agent) mayBeFenced(id uuid.UUID) bool {
	d, known := a.Cache.DatasetOrCopy(id)
	_, armed := a.deadlines.Armed(id)
	return a.config.Guard != nil && (armed || !known || lease.IsBounded(d))
}
