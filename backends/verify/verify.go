// Package verify runs the conformance suite of backends (package backendtest) on an operator's pool. It runs the suite
// on new pools in a sandbox of that pool (package trialdir), and does not touch the datasets of the pool.
//
// [Suite] runs the cases and reports an [Event] for each step. The command `drover backend verify`
// (cmd/drover/internal/verification) calls it in a separate process. The command decodes the events
// from JSON and adds them to a [Report]. Packages main and cli only name the type Report, for App.VerifyPool. The
// report shows the claims of the pool beside the results. The package keeps its state in the files in the sandbox.
// Suite removes them after each case, and the lock on the sandbox protects them. A mutex protects the failures and
// clean-ups of the running case (try). The rest of the state in memory (suite, Report) belongs to one goroutine. How
// cases are run is in verify.go and try.go, and how results are compared with the claims in report.go.
package verify

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/iolimit"
	"github.com/droverhq/drover/internal/tree/treetest"
)

// Result is the result of a case. The case has passed if there are no failures.
type Result struct {
	Name     string   `json:"name"`
	Proves   []string `json:"proves,omitempty"`
	Seconds  float64  `json:"seconds"`
	Failures []string `json:"failures,omitempty"`
}

// Event reports one step of the suite. Exactly one of its fields is set.
type Event struct {
	Info *Claims `json:"info,omitempty"` // the first event: what a pool in the sandbox declares
	// Unsupported lists the operations that the filesystem below the sandbox does not support. The suite leaves them
	// out.
	Unsupported []string           `json:"lacks,omitempty"`
	Begins      string             `json:"begins,omitempty"`  // the name of the case that begins
	Result      *Result            `json:"result,omitempty"`  // the result of that case
	Times       []backendtest.Time `json:"times,omitempty"`   // the last event, if measuring succeeded
	Problem     string             `json:"problem,omitempty"` // why the suite ended early
}

// Claims are the declared capabilities of a pool.
type Claims struct {
	Capabilities dataset.Capabilities `json:"capabilities"`
	Note         string               `json:"note"`
}

// Count returns the number of cases that Suite runs.
func Count() int { return len(backendtest.Cases()) + 1 }

// measuring is the case that times the calls of the pool.
const measuring = "Times"

// Suite runs all cases on pools of the backend kind. It makes these pools in the folder at path, and removes the
// remains of a case before the next one. It passes each event to report. The failure of a case is an event, not an
// error. An error means that the suite could not run.
func Suite(ctx context.Context, kind backends.Kind, path string, report func(Event) error) error {
	s := &suite{kind: kind, path: path, report: report}
	if err := s.begin(ctx); err != nil {
		return err
	}
	for _, c := range backendtest.Cases() {
		err := s.runCase(ctx, Result{Name: c.Name, Proves: c.Proves}, func(t *try) {
			c.Run(t, s.pools(t), s.unsupported...)
		})
		if err != nil {
			return err
		}
	}
	var times []backendtest.Time
	if err := s.runCase(ctx, Result{Name: measuring},
		func(t *try) { times = backendtest.Measure(t, s.pools(t)) }); err != nil || len(times) == 0 {
		return err
	}
	return report(Event{Times: times})
}

type suite struct {
	kind        backends.Kind
	path        string
	report      func(Event) error
	unsupported []string
	count       int
}

// pools returns the function newPool of a case: each call returns the backend, and a new place for a pool.
func (s *suite) pools(t *try) func() (backends.Kind, backends.Config) {
	return func() (backends.Kind, backends.Config) {
		return s.kind, backends.Config{Name: "verify", Path: filepath.Join(t.folder("p"), "pool")}
	}
}

// begin makes a pool to read its declared capabilities, and finds the operations that the filesystem does not support.
// It reports both.
func (s *suite) begin(ctx context.Context) error {
	var claims Claims
	t, err := s.inFolder(ctx, func(t *try) {
		_, cfg := s.pools(t)()
		cfg.ID, cfg.Make = uuid.New(), true
		pool, err := s.kind.Open(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		claims = Claims{pool.Info().Capabilities, pool.Info().Note}
		if h, err := iolimit.Find(); err == nil && claims.Capabilities.OwnDevice {
			claims.Capabilities.Limits = h.Kind() // as the agent does for its pools
		}
		if err := pool.Close(); err != nil {
			t.Fatal(err)
		}
		plain := t.TempDir()
		for _, op := range treetest.Operations() {
			if err := op.Do(plain); err != nil {
				s.unsupported = append(s.unsupported, op.Name)
			}
		}
	})
	if err == nil && len(t.failures) > 0 {
		err = fmt.Errorf("create a pool in a sandbox: %s", t.failures[0])
	}
	if err != nil {
		return err
	}
	if err := s.report(Event{Info: &claims}); err != nil || len(s.unsupported) == 0 {
		return err
	}
	return s.report(Event{Unsupported: s.unsupported})
}

func (s *suite) runCase(ctx context.Context, r Result, run func(*try)) error {
	if err := s.report(Event{Begins: r.Name}); err != nil {
		return err
	}
	began := time.Now() //nolint:forbidigo // the report contains real durations
	t, err := s.inFolder(ctx, run)
	if err != nil {
		return err
	}
	r.Seconds, r.Failures = time.Since(began).Seconds(), t.failures //nolint:forbidigo // see above
	return s.report(Event{Result: &r})
}

// inFolder calls run with a new folder, and removes the folder afterwards.
func (s *suite) inFolder(ctx context.Context, run func(*try)) (*try, error) {
	s.count++
	t := &try{ctx: ctx, dir: filepath.Join(s.path, fmt.Sprintf("%03d", s.count))}
	if err := os.Mkdir(t.dir, 0o700); err != nil {
		return nil, err
	}
	t.run(func() { run(t) })
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return t, trialdir.Clear(ctx, []backends.Kind{s.kind}, t.dir)
}
