package operation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// WriteRecordLater writes the record beside a dataset again, as a job. Each change gets a separate job, because a
// running job may have read the record before the change. An agent that stops waits for the job, because another Drover
// that opens the pools next has only these records.
func (o *Operations) WriteRecordLater(d api.IndexedDataset) {
	o.Throttle.ProfileChanged(d.Dataset)
	o.Jobs.Start(fmt.Sprintf("note/%s/%d", d.ID, d.Index), func(ctx context.Context, _ *host.Job) error {
		return o.writeRecordNow(ctx, d.ID)
	})
}

// WriteRecord writes the record beside a dataset for an operation that is recorded as done. If the write fails, the
// operation stays done and WriteAllRecords tries again.
func (o *Operations) WriteRecord(ctx context.Context, pool backends.Pool, d dataset.Dataset) {
	if d.Home != o.NodeID {
		return // a copy keeps the record of the state that was copied
	}
	d.Written = o.Cache.Index(d.ID)
	// Without a flush: control's store has the record, and this copy is needed only if that store is lost.
	err := pool.WriteRecord(context.WithoutCancel(ctx), d, false)
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		o.LogOf(ctx, d).WithError(err).Warn("cannot write the record beside the data")
	}
}

// writeRecordNow writes the record beside a dataset from the record in the cache.
func (o *Operations) writeRecordNow(ctx context.Context, id uuid.UUID) error {
	unlock, err := o.Locks.Lock(ctx, id, "update of dataset "+id.String())
	if err != nil {
		return err
	}
	defer unlock()
	d, known := o.Cache.Dataset(id)
	if !known || d.State == dataset.StatePurging || o.Trust.Err() != nil {
		return nil // a rebuild of an inconsistent store needs the record beside the data
	}
	storage, err := o.Pools.Get(d.Pool)
	if err != nil {
		return nil // WriteAllRecords does it when the pool is online again
	}
	o.WriteRecord(ctx, storage, d)
	return nil
}

// WriteAllRecords compares the record beside each dataset with the known record, and writes it again if they differ. A
// record is not flushed, so it can be lost in a power cut, or if the process ends before it is written.
func (o *Operations) WriteAllRecords() {
	o.Jobs.Start("notes", func(ctx context.Context, _ *host.Job) error {
		for _, p := range o.Pools.All() {
			if p.Storage == nil || p.HangReason != "" {
				continue
			}
			entries, err := p.Storage.List(ctx)
			if err != nil && ctx.Err() == nil {
				log := o.Log.WithError(err).WithField("pool", p.Name)
				log.Warn("cannot compare the records beside the data")
			}
			for _, e := range entries {
				if ctx.Err() != nil || o.Trust.Err() != nil {
					return nil
				}
				d, known := o.Cache.Dataset(e.ID)
				if known && d.Pool == p.ID && isOutOfDate(e, d, o.Cache.Index(e.ID)) {
					if err := o.writeRecordNow(ctx, e.ID); err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
}

// isOutOfDate reports whether the record of an entry must be replaced by d, the record in the cache. index is the index
// of the record in the cache. A different record with a higher index of the same epoch stays: the store was restored
// from a backup, and a rebuild needs that record. Indexes of different epochs cannot be compared.
func isOutOfDate(e backends.Entry, d dataset.Dataset, index uint64) bool {
	if e.State != backends.EntryReady && e.State != backends.EntryIncoming {
		return false
	}
	if e.Record == nil {
		return true
	}
	newer := index != 0 && e.Record.Epoch == d.Epoch && e.Record.Written > index
	d.Written = e.Record.Written
	old, err := json.Marshal(e.Record)
	if err != nil {
		return true
	}
	now, err := json.Marshal(d)
	same := err != nil || bytes.Equal(old, now)
	return same == newer
}
