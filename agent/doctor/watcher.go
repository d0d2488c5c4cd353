package doctor

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// Watcher examines this host in the background, so that each heartbeat can report what needs attention here. Its
// methods are safe for concurrent use.
type Watcher struct {
	ctx     context.Context // of the agent
	clock   clock.Clock
	examine func(ctx context.Context) (found []api.Finding, waited time.Duration)

	mu      sync.Mutex
	last    *api.NodeFindings // nil until the first examination has ended; never changed after it is set
	running bool              // an examination has begun and not ended
	began   time.Duration     // when it began, by the steady clock
}

// examineInBackground returns the findings about this host. It leaves out those about the connection to control, those
// that need a list of all datasets in the pools, and those that need the operator's keys. waited is how long it waited
// for other processes: see Report.
func (x *Doctor) examineInBackground(ctx context.Context) (found []api.Finding, waited time.Duration) {
	r := &Report{StoreRemedy: x.Trust.Remedy(), StoreProblem: x.Trust.Why(), Background: true}
	x.examineHost(ctx, r, nil, false)
	r.sort()
	r.putStoreProblemFirst()
	return r.List, r.Waited
}

const (
	// watchPause is the time between two examinations.
	watchPause = 10 * time.Second
	// watchShare limits the time that examinations take, to 1/watchShare of all time. The time in which they wait for
	// control or the guard does not count. If it counted, the next examination of a host that was cut off for a moment
	// would begin minutes later, and the host would report outdated findings until then.
	watchShare = 30
	// maxWatchPause bounds the time between two examinations, for example after an examination that hung for hours.
	maxWatchPause = 10 * time.Minute
	// watchPatience is how long an examination may take before Last reports that it does not end.
	watchPatience = 2 * time.Minute
)

// Run examines the host until the agent stops. A host with so many datasets that an examination takes long is examined
// less often.
func (w *Watcher) Run() {
	for {
		began := w.clock.Steady()
		waited := w.Examine(w.ctx)
		took := w.clock.Steady() - began - waited
		select {
		case <-w.ctx.Done():
			return
		case <-w.clock.After(min(max(watchPause, watchShare*took), maxWatchPause)):
		}
	}
}

// Examine examines the host once, and remembers the warnings and errors. It returns how long it waited for other
// processes. Only one goroutine may call it.
func (w *Watcher) Examine(ctx context.Context) (waited time.Duration) {
	w.mu.Lock()
	w.running, w.began = true, w.clock.Steady()
	w.mu.Unlock()
	all, waited := w.examine(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running = false
	if ctx.Err() != nil {
		return waited // what did not answer before the stop is not a finding
	}
	w.last = summary(all)
	w.last.Examined = w.clock.Now()
	return waited
}

// Last returns the result of the last examination, or nil before the first one has ended. If an examination does not
// end, the result has a warning about that: a disk that hangs must not make old findings look like present ones. The
// caller must not change the result.
func (w *Watcher) Last() *api.NodeFindings {
	w.mu.Lock()
	defer w.mu.Unlock()
	took := w.clock.Steady() - w.began
	if !w.running || took < watchPatience {
		return w.last
	}
	out := &api.NodeFindings{}
	since := "nothing was found out before"
	if w.last != nil {
		*out = *w.last
		since = "the other findings are from " + w.last.Examined.UTC().Format(time.RFC3339)
	}
	out.Findings = append([]api.Finding{
		condition.ExaminationHangs.Finding("agent", "", took.Round(time.Minute), since),
	}, out.Findings...)
	if extra := len(out.Findings) - api.MaxReportedFindings; extra > 0 { // control refuses a longer list
		out.Findings = out.Findings[:api.MaxReportedFindings]
		out.Omitted += extra
	}
	return out
}

// summary returns the warnings and errors among findings, without repeated ones. Each is short enough for a heartbeat.
// It is a pure function.
func summary(all []api.Finding) *api.NodeFindings {
	out := &api.NodeFindings{}
	for _, f := range all {
		f = cutFinding(f)
		if !f.NeedsAttention() || slices.Contains(out.Findings, f) {
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

// cutFinding truncates a finding to dataset.MaxLine bytes in all. Control refuses a heartbeat with a longer one, so the
// whole node would count as silent. It truncates the text first, because the remedy helps most.
func cutFinding(f api.Finding) api.Finding {
	most := dataset.MaxLine - len(f.Condition) - len(f.Level)
	f.Text = dataset.CutTo(f.Text, most-len(f.Subject)-len(f.Fix))
	f.Fix = dataset.CutTo(f.Fix, most-len(f.Subject)-len(f.Text))
	f.Subject = dataset.CutTo(f.Subject, most-len(f.Text)-len(f.Fix))
	return f
}
