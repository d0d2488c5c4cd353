package agent

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// incarnationsKey holds those of this boot that control may know: the one that was
// let in last, and those that tried since. By them control tells an agent that was
// restarted from another machine with the same identity.
const incarnationsKey = "incarnations"

type incarnations struct {
	Boot string      `json:"boot"`
	IDs  []uuid.UUID `json:"ids"`
}

// incarnationsKept bounds an agent that is restarted over and over while control is
// away.
const incarnationsKept = 100

// incarnate puts this incarnation on disk, before control hears of it, behind those
// that it comes after.
func (a *Agent) incarnate(ctx context.Context) error {
	var known incarnations
	if _, err := a.state.get(ctx, incarnationsKey, &known); err != nil {
		return err
	}
	if known.Boot == a.boot {
		a.previous = known.IDs
	}
	if over := len(a.previous) - incarnationsKept; over > 0 {
		a.previous = append(a.previous[:1:1], a.previous[over+1:]...)
	}
	ids := append(append([]uuid.UUID(nil), a.previous...), a.incarnation)
	return a.state.put(ctx, map[string]any{incarnationsKey: incarnations{a.boot, ids}})
}

// letIn notes that control knows this incarnation: those before are over.
func (a *Agent) letIn(ctx context.Context) error {
	a.mu.Lock()
	known := a.previous == nil
	a.mu.Unlock()
	if known {
		return nil
	}
	if err := a.state.put(ctx, map[string]any{incarnationsKey: incarnations{a.boot, []uuid.UUID{a.incarnation}}}); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.previous = nil
	return nil
}

// renewAgain is how often an agent says that it is alive as long as it does not know
// for how long that holds.
const renewAgain = 2 * time.Second

// renews says that this agent is alive until it stops, or learns that it need not:
// five times in the time for which one word of it holds. It asks one control replica
// after the other: none has more than the time until the next.
func (a *Agent) renews() {
	every, told := renewAgain, false
	for n := 0; ; {
		sent := a.Clock.Steady()
		ctx, cancel := context.WithTimeout(a.ctx, every)
		st, err := a.apart[n%len(a.apart)].Renew(ctx, a.node, a.incarnation)
		cancel()
		switch {
		case a.ctx.Err() != nil:
			return
		case err == nil && st.TTL == 0:
			return
		case err == nil:
			every, told = time.Duration(st.TTL)/5, false
			a.mu.Lock()
			a.renewed, a.ttl = sent, time.Duration(st.TTL)
			a.mu.Unlock()
		case errors.Is(err, dataset.ErrStale):
			err = a.register(a.ctx)
			fallthrough
		default:
			n++
			if !told && err != nil && a.ctx.Err() == nil {
				told = true
				a.Log.WithError(err).Warn("control was not told that this node is alive")
			}
		}
		select {
		case <-a.ctx.Done():
			return
		case <-a.Clock.After(every):
		}
	}
}

// Standing returns when control was last told that this agent is alive, and heard it,
// by the steady clock as it was before that was said, and for how long it then holds.
// Zeros as long as there was no such time, and always where it need not be told.
func (a *Agent) Standing() (renewed, ttl time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.renewed, a.ttl
}

// replicas returns each control replica alone, the one way to control where there are
// not several.
func replicas(s api.Service) []api.Service {
	several, ok := s.(interface{ Apart() []*api.Client })
	if !ok {
		return []api.Service{s}
	}
	var out []api.Service
	for _, c := range several.Apart() {
		out = append(out, c)
	}
	return out
}
