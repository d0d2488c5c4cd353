package doctor

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/control/api"
)

// Watcher examines this host in the background, so that each heartbeat can report what needs attention here. Its
// methods are safe for concurrent use.
type Watcher struct {
	doctor *Doctor

	mu   sync.Mutex
	last *api.NodeFindings // nil until the first examination has ended; never changed after it is set
}

// NewWatcher returns a Watcher that has not examined anything.
func NewWatcher(doctor *Doctor) *Watcher { return &Watcher{doctor: doctor} }

const (
	// watchPause is the time between two examinations.
	watchPause = 10 * time.Second
	// watchShare is the largest share of the time that examinations may take: one in watchShare.
	watchShare = 100
)

// Run examines the host until the agent stops. A host with so many datasets that an examination takes long is examined
// less often.
func (w *Watcher) Run() {
	host := w.doctor.deps.Host
	for {
		began := host.Clock.Steady()
		w.Examine(host.Ctx)
		took := host.Clock.Steady() - began
		select {
		case <-host.Ctx.Done():
			return
		case <-host.Clock.After(max(watchPause, watchShare*took)):
		}
	}
}

// Examine examines the host once, and remembers the warnings and errors.
func (w *Watcher) Examine(ctx context.Context) {
	r := &Report{StoreRemedy: w.doctor.deps.Trust.Remedy(), StoreProblem: w.doctor.deps.Trust.Why()}
	w.doctor.examineHost(ctx, r, nil, false)
	if ctx.Err() != nil {
		return // what did not answer before the stop is not a finding
	}
	r.sort()
	r.first()
	next := summary(r.All)
	next.Examined = w.doctor.deps.Clock.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = next
}

// Last returns the result of the last examination, or nil before the first one has ended. The caller must not change
// it.
func (w *Watcher) Last() *api.NodeFindings {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// summary returns the warnings and errors among findings, without repeated ones. It is a pure function.
func summary(all []api.Finding) *api.NodeFindings {
	out := &api.NodeFindings{}
	for _, f := range all {
		if f.Level != findings.Error && f.Level != findings.Warning || slices.Contains(out.Findings, f) {
			continue
		}
		if len(out.Findings) == api.MaxReportedFindings {
			out.Omitted++
			continue
		}
		out.Findings = append(out.Findings, f)
	}
	return out
}
