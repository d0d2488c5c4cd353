package daemon

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// Recorder counts and times what a process does. Its methods are safe for concurrent use.
type Recorder struct {
	operations, calls, requests, control, stores *prometheus.HistogramVec

	mu              sync.Mutex
	failedSnapshots map[string]int // by volume
}

// The boundaries of the histograms, in seconds. Each costs a series for each combination of labels, so there are few.
var (
	fast = []float64{.001, .005, .025, .1, .5, 2.5, 10, 60}
	slow = []float64{.01, .05, .25, 1, 5, 30, 120, 600, 3600}
)

// maxFailed bounds the volumes whose failed snapshots are counted. Above it, all counts start again at 0, which
// Prometheus treats like a restart of the process.
const maxFailed = 50_000

// NewRecorder returns a Recorder that has counted nothing.
func NewRecorder() *Recorder {
	vec := func(f *Family, buckets []float64) *prometheus.HistogramVec {
		o := prometheus.HistogramOpts{Name: f.name, Help: f.help, Buckets: buckets}
		return prometheus.NewHistogramVec(o, f.labels)
	}
	r := &Recorder{
		operations: vec(operationSeconds, slow), calls: vec(pluginSeconds, slow), requests: vec(apiSeconds, fast),
		control: vec(controlSeconds, fast), stores: vec(storeSeconds, fast), failedSnapshots: map[string]int{},
	}
	return r
}

// ExposeOperations exposes the operations of some kinds before the first one has ended, so that the first failure is an
// increase.
func (r *Recorder) ExposeOperations(kinds []dataset.OpKind) {
	for _, kind := range kinds {
		for _, outcome := range []string{"ok", "failed"} {
			r.operations.WithLabelValues(string(kind), outcome)
		}
	}
}

// Operation records an operation that has ended.
func (r *Recorder) Operation(op dataset.Operation, err error, took time.Duration) {
	result := outcome(err)
	r.operations.WithLabelValues(string(op.Kind), result).Observe(took.Seconds())
	if op.Kind != dataset.OpSnapshot || result == "ok" || result == "cancelled" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.failedSnapshots) >= maxFailed {
		clear(r.failedSnapshots)
	}
	r.failedSnapshots[op.Volume]++
}

// PluginCall records a call of the engine.
func (r *Recorder) PluginCall(call string, err error, took time.Duration) {
	r.calls.WithLabelValues(call, outcome(err)).Observe(took.Seconds())
}

// Request records a request that the API answered. endpoint is the pattern of its route, and empty for an unknown one.
func (r *Recorder) Request(endpoint string, status int, took time.Duration) {
	if endpoint == "" || endpoint == "/" {
		endpoint = "unknown"
	}
	result := "ok"
	switch {
	case status >= http.StatusInternalServerError:
		result = "failed"
	case status >= http.StatusBadRequest:
		result = "refused"
	case status == 0: // the caller closed the connection before the answer
		result = "cancelled"
	}
	r.requests.WithLabelValues(endpoint, result).Observe(took.Seconds())
}

// ControlRequest records a request of this agent to control. endpoint is the pattern of its route.
func (r *Recorder) ControlRequest(endpoint string, err error, took time.Duration) {
	r.control.WithLabelValues(endpoint, outcome(err)).Observe(took.Seconds())
}

// outcome classifies the result of a call.
func outcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, dataset.ErrCancelled), errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrTooLarge):
		return "refused"
	case dataset.KindOf(err).HTTP < http.StatusInternalServerError:
		return "refused"
	}
	return "failed"
}

// snapshotFailures returns how many snapshots of a volume failed.
func (r *Recorder) snapshotFailures(volume string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failedSnapshots[volume]
}
