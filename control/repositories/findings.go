package repositories

import (
	"context"
	"fmt"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// failureGrace is how long exports to a repository may fail before it is reported.
const failureGrace = 2 * time.Hour

// State is the outcome of the exports to a repository.
type State struct {
	Repository string
	Age        time.Duration // since the last stored export or, if there is none, since the repository was added
	Failing    time.Duration // since the first failure after the last success; 0 if the last attempt succeeded
}

// States returns the state of each repository that gets exports, by name. It is empty while another control replica
// does the background work.
func (x *Exporter) States(ctx context.Context) ([]State, error) {
	if !x.active.Load() {
		return nil, nil
	}
	var out []State
	now := x.ledger.Clock.Now()
	err := x.each(ctx, func(r dataset.Repository, e record.Export) {
		last := e.Last
		if last.IsZero() {
			last = r.Created
		}
		s := State{Repository: r.Name, Age: max(0, now.Sub(last))}
		if !e.Failed.IsZero() {
			s.Failing = max(time.Second, now.Sub(e.Failed))
		}
		out = append(out, s)
	})
	return out, err
}

// Findings returns a warning for each repository whose exports have failed for longer than failureGrace. It also warns
// if no failure is recorded, but no export was stored for maxAge and failureGrace. All control replicas return the same
// warnings.
func (x *Exporter) Findings(ctx context.Context) ([]api.Finding, error) {
	var out []api.Finding
	now := x.ledger.Clock.Now()
	err := x.each(ctx, func(r dataset.Repository, e record.Export) {
		last := e.Last
		text := "the records of control were never stored in it"
		if last.IsZero() {
			last = r.Created
		} else {
			text = "the records of control were last stored in it at " + last.UTC().Format(time.DateTime) + " UTC"
		}
		switch {
		case !e.Failed.IsZero() && now.Sub(e.Failed) > failureGrace:
			text += "; the last attempt failed because " + e.Problem
		case e.Failed.IsZero() && now.Sub(last) > maxAge+failureGrace:
			text += "; the log of control says why"
		default:
			return
		}
		out = append(out, api.Finding{
			Level: api.LevelWarning, Subject: "repository " + r.Name,
			Text: text,
			Fix: fmt.Sprintf("on the control host: correct the cause, or drover repository set %s "+
				"--store-records=false", r.Name),
		})
	})
	return out, err
}

// each calls f for each repository that gets exports, in the order of their names. If records of repositories are
// damaged, each calls f for the others, and returns an error that names the damaged records.
func (x *Exporter) each(ctx context.Context, f func(dataset.Repository, record.Export)) error {
	if x.repositories == nil {
		return nil
	}
	t := record.NewTx(ctx, x.ledger.Store)
	list, damaged, err := repositories(t)
	if err != nil {
		return err
	}
	for _, r := range list {
		if !r.StoresRecords(x.ledger.Shared) {
			continue
		}
		e, err := exportOf(t, r)
		if err != nil {
			return err
		}
		f(r, e)
	}
	return damaged
}
