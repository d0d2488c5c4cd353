package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// noteLater writes the record beside a dataset again, as a job. Each change has a job of its own, because a
// running one may have read the record before the change. An agent that stops waits for it: its pools may be used
// by another Drover that has only these records.
func (a *Agent) noteLater(d api.Indexed) {
	a.limits.ProfileChanged(d.Dataset)
	a.Jobs.Start(fmt.Sprintf("note/%s/%d", d.ID, d.Index), func(ctx context.Context, _ *jobs.Job) error {
		return a.noteNow(ctx, d.ID)
	})
}

// noteDone writes the record beside a dataset for an operation that is recorded as done. If that fails the
// operation stays done, and noteAll tries again.
func (a *Agent) noteDone(ctx context.Context, pool backends.Pool, d dataset.Dataset) {
	if d.Home != a.NodeID {
		return // the record beside a copy is that of the copied state
	}
	if err := a.note(ctx, pool, d); err != nil && !errors.Is(err, dataset.ErrNotFound) {
		a.LogOf(d).WithError(err).Warn("the record beside the data was not written")
	}
}

// noteNow writes the record beside a dataset from what is known of it now.
func (a *Agent) noteNow(ctx context.Context, id uuid.UUID) error {
	unlock, err := a.Locks.Lock(ctx, id, "update of dataset "+id.String())
	if err != nil {
		return err
	}
	defer unlock()
	d, known := a.Cache.Dataset(id)
	if !known || d.State == dataset.StatePurging {
		return nil
	}
	pool, err := a.pools.Get(d.Pool)
	if err != nil {
		return nil // noteAll does it when the pool is online again
	}
	a.noteDone(ctx, pool, d)
	return nil
}

// noteAll writes every record beside the data that differs from the known one. A record is not flushed, so it may
// be lost in a power cut, or with the process that should have written it.
func (a *Agent) noteAll() {
	a.Jobs.Start("notes", func(ctx context.Context, _ *jobs.Job) error {
		for _, p := range a.pools.All() {
			if p.Storage == nil || p.Hung != "" {
				continue
			}
			entries, err := p.Storage.List(ctx)
			if err != nil && ctx.Err() == nil {
				a.Log.WithError(err).WithField("pool", p.Name).Warn("the records beside the data were not compared")
			}
			for _, e := range entries {
				if ctx.Err() != nil || a.Trust.Err() != nil {
					return nil
				}
				if d, known := a.Cache.Dataset(e.ID); known && d.Pool == p.ID && outOfDate(e, d, a.Cache.Index(e.ID)) {
					if err := a.noteNow(ctx, e.ID); err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
}

// outOfDate reports whether a record differs from the known one with that index, or has the index of another
// store, with which it would replace later ones.
func outOfDate(e backends.Entry, d dataset.Dataset, index uint64) bool {
	if e.State != backends.EntryReady && e.State != backends.EntryIncoming {
		return false
	}
	if e.Record == nil || (index != 0 && e.Record.Written > index) {
		return true
	}
	d.Written = e.Record.Written
	old, err := json.Marshal(e.Record)
	if err != nil {
		return true
	}
	now, err := json.Marshal(d)
	return err == nil && !bytes.Equal(old, now)
}
