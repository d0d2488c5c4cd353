package repositories

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store/dump"
	"github.com/droverhq/drover/dataset"
)

const (
	// Interval is the time between two exports of records that change.
	Interval = time.Hour
	// maxAge is the time after which records that have not changed are stored again. So a repository that was lost or
	// replaced is noticed.
	maxAge = 24 * time.Hour
	// retryInterval is the time between two attempts to store an export.
	retryInterval = 10 * time.Minute
	// firstDelay is the time between the addition of a repository and the first export to it, unless an operator has
	// set StoreRecords. An operator may check or remove a new repository, and a check fails while an export is stored.
	firstDelay = 10 * time.Minute
	// roundInterval is the time between two rounds. startInterval is how often a service that does not do the
	// background work checks whether it does it now.
	roundInterval = time.Minute
	startInterval = 10 * time.Second
	// uploadTime is how long an attempt may take. Without this limit, a repository that hangs would never count as
	// failed.
	uploadTime = 30 * time.Minute
)

// Export is an export of the records that is stored in a repository.
type Export struct {
	Cluster uuid.UUID
	Volumes int       // number of volumes
	Taken   time.Time // when the records were read
	Write   func(io.Writer) error
}

// Repositories stores exports in repositories.
type Repositories interface {
	// Store stores an export, and removes earlier ones of the same cluster that are not kept any longer. If only the
	// removal fails, it returns nil: the next call tries again. It fails with dataset.ErrForbidden if this host may not
	// run the password program of the repository, and with the errors of restic.
	Store(ctx context.Context, r dataset.Repository, e Export) error
}

// Exporter stores exports of the records in repositories. Its methods are safe for concurrent use, except Run and
// Round.
type Exporter struct {
	ledger       *record.Ledger
	storeKind    string       // bolt or consul
	repositories Repositories // nil: Run and Round must not be called, and States and Findings return nothing
	background   Background
	due          map[place]time.Time // when each repository is looked at again
	// active is true while this service stores the exports. Otherwise States returns nothing.
	active atomic.Bool
}

// place identifies a repository. A repository that is removed and added again under the same name has another place.
type place struct {
	name, url string
	created   int64 // nanoseconds
}

func placeOf(r dataset.Repository) place { return place{r.Name, r.URL, r.Created.UnixNano()} }

// Background knows whether this service does the background work now.
type Background interface{ IsActive() bool }

// NewExporter returns an Exporter of the store of a ledger. storeKind is bolt or consul. If r is nil, Run and Round
// must not be called, and States and Findings return nothing.
func NewExporter(l *record.Ledger, storeKind string, r Repositories, b Background) *Exporter {
	return &Exporter{ledger: l, storeKind: storeKind, repositories: r, background: b, due: map[place]time.Time{}}
}

// Run stores the exports that are due, until ctx ends.
func (x *Exporter) Run(ctx context.Context) {
	for wait := startInterval; ; {
		select {
		case <-ctx.Done():
			return
		case <-x.ledger.Clock.After(wait):
		}
		mine := x.background.IsActive()
		x.active.Store(mine)
		if wait = startInterval; !mine {
			clear(x.due) // another replica stores the exports now
			continue
		}
		wait = roundInterval
		if err := x.Round(record.AsHousekeeper(ctx)); err != nil && ctx.Err() == nil {
			x.ledger.Failed("store the records in repositories", err)
		}
	}
}

// Round stores the exports that are due. A repository that fails does not prevent the others: the failure is recorded.
// Round fails if the store cannot be read or written. If only the records of some repositories are damaged, it stores
// the exports in the others, and the error names the damaged records.
func (x *Exporter) Round(ctx context.Context) error {
	now := x.ledger.Clock.Now()
	t := record.NewTx(ctx, x.ledger.Store)
	list, damaged, err := repositories(t)
	if err != nil {
		return err
	}
	recorded := map[place]bool{}
	for _, r := range list {
		recorded[placeOf(r)] = true
	}
	maps.DeleteFunc(x.due, func(p place, _ time.Time) bool { return !recorded[p] })
	var records *dump.Records // read once, and only if one is due
	for _, r := range list {
		if !r.StoresRecords(x.ledger.Shared) || !x.isDue(r, now) {
			continue
		}
		known, err := exportOf(t, r)
		if err != nil {
			return err
		}
		if known.Failed.IsZero() && age(now, known.Last) < Interval {
			x.due[placeOf(r)] = known.Last.Add(Interval)
			continue
		}
		if records == nil {
			read, err := dump.Read(ctx, x.ledger.Store, x.storeKind)
			if err != nil {
				return err
			}
			records = &read
		}
		if err := x.export(ctx, r, known, *records, now); err != nil {
			return errors.Join(damaged, err)
		}
	}
	return damaged
}

// repositories returns the repositories whose records can be read. The error damaged names the records that cannot be
// decoded, and err says why the store cannot be read.
func repositories(t *record.Tx) (list []dataset.Repository, damaged, err error) {
	entries, err := t.List(record.RepositoriesPrefix, "", 0)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		var r dataset.Repository
		if err := record.Decode(e.Key, e.Value, &r); err != nil {
			damaged = errors.Join(damaged, err)
			continue
		}
		list = append(list, r)
	}
	return list, damaged, nil
}

// isDue reports whether a repository must be looked at.
func (x *Exporter) isDue(r dataset.Repository, now time.Time) bool {
	if age := now.Sub(r.Created); r.StoreRecords == nil && age >= 0 && age < firstDelay {
		return false
	}
	due, known := x.due[placeOf(r)]
	return !known || !now.Before(due) || due.Sub(now) > Interval // the clock was set back
}

// age returns the time since a recorded one. A time in the future counts as long ago: the clock was ahead when it was
// recorded, and the real time is not known.
func age(now, at time.Time) time.Duration {
	if at.After(now.Add(dataset.MaxClockSkew)) {
		at = time.Time{}
	}
	return max(0, now.Sub(at))
}

// exportOf returns the record of the exports to a repository. The record is empty if there is none, if it is damaged,
// or if the repository had another URL then.
func exportOf(t *record.Tx, r dataset.Repository) (known record.Export, err error) {
	there, err := t.Peek(record.ExportKey(r.Name), &known)
	if dataset.KindOf(err) == dataset.ErrCorrupt { // the next export replaces the record
		there, err = false, nil
	}
	if !there || known.URL != r.URL {
		known = record.Export{Repository: r.Name, URL: r.URL}
	}
	return known, err
}

// export stores an export of the records in a repository if they have changed since the last one, and records the
// outcome.
func (x *Exporter) export(ctx context.Context, r dataset.Repository, known record.Export, records dump.Records,
	now time.Time) error {
	// Without these records: they change at any time, and nobody needs them after a loss. An export contains them
	// nevertheless.
	digest := records.Digest(
		record.ExportsPrefix, record.RevPrefix, record.OperationsPrefix, record.RunMarkKey, record.BackupsPrefix,
		record.VerificationsPrefix, record.DamagedPrefix, record.ParentsPrefix, record.AllWorkPrefix)
	if known.Failed.IsZero() && digest == known.Digest && age(now, known.Last) < maxAge {
		x.due[placeOf(r)] = now.Add(Interval)
		return nil
	}
	attempt, cancel := context.WithTimeout(ctx, uploadTime)
	defer cancel()
	summary := records.Summary()
	err := x.repositories.Store(attempt, r, Export{
		Cluster: summary.Cluster, Volumes: summary.Volumes, Taken: now, Write: records.Write,
	})
	if ctx.Err() != nil {
		return ctx.Err() // the service stops: nothing is known about the repository
	}
	after := record.Export{Repository: r.Name, URL: r.URL, Last: now, Digest: digest}
	x.due[placeOf(r)] = now.Add(retryInterval) // also if the outcome cannot be recorded
	if err != nil {
		if attempt.Err() != nil {
			err = fmt.Errorf("it took longer than %s: %w", uploadTime, err)
		}
		after = known
		after.Problem = dataset.OneLine(err)
		if after.Failed.IsZero() {
			after.Failed = now
		}
	}
	if after == known {
		return nil
	}
	_, err = x.ledger.Update(ctx, func(t *record.Tx) error {
		var recorded dataset.Repository
		there, err := t.Get(record.RepositoryKey(r.Name), &recorded)
		if err != nil || !there || recorded.URL != r.URL { // it was removed meanwhile
			return err
		}
		return t.Put(record.ExportKey(r.Name), after)
	})
	if err == nil && after.Failed.IsZero() {
		x.due[placeOf(r)] = now.Add(Interval)
	}
	return err
}

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
		s := State{Repository: r.Name, Age: age(now, last)}
		if !e.Failed.IsZero() {
			s.Failing = max(time.Second, age(now, e.Failed))
		}
		out = append(out, s)
	})
	return out, err
}

// Findings returns a warning for each repository whose exports have failed for longer than failureGrace. It also warns
// if no failure is recorded, but no export was stored for maxAge and failureGrace. All control replicas return the same
// warnings.
func (x *Exporter) Findings(ctx context.Context) ([]api.Finding, error) {
	var out condition.List
	now := x.ledger.Clock.Now()
	err := x.each(ctx, func(r dataset.Repository, e record.Export) {
		last := e.Last
		stored, why := "never stored in it", "the log of control says why"
		if last.IsZero() {
			last = r.Created
		} else {
			stored = "last stored in it at " + last.UTC().Format(time.DateTime) + " UTC"
		}
		switch {
		case !e.Failed.IsZero() && age(now, e.Failed) > failureGrace:
			why = "the last attempt failed because " + e.Problem
		case e.Failed.IsZero() && age(now, last) > maxAge+failureGrace:
		default:
			return
		}
		out.Add(condition.RecordsNotStored, "repository "+r.Name, fmt.Sprintf("on the control host: correct the "+
			"cause, or drover repository set %s --store-records=false", r.Name), stored, why)
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
