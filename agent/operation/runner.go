package operation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/failurelog"
	"github.com/droverhq/drover/internal/requestid"
)

// Runner runs operations and reports their outcome to control. Its methods are safe for concurrent use.
type Runner struct {
	*Operations
	// Ended is called after each operation. It must be fast. If nil, it is not called.
	Ended func(op dataset.Operation, err error, took time.Duration)

	mu      sync.Mutex
	running map[uuid.UUID]*running // by operation
}

// running is an operation that is being carried out.
type running struct {
	cancel   context.CancelFunc
	recorded bool // control has a record of it, and may cancel it
	inDoubt  bool // control has not answered a report of it, so the report may still arrive

	// endRecording cancels the request to record the operation, and returns once that request has ended.
	endRecording func()

	// dataset and pool are those that the operation changes. pool may be uuid.Nil. made is the dataset that the
	// operation makes in that pool, if it is another one.
	dataset, pool, made uuid.UUID
}

// Run runs do as an operation that can be listed and cancelled. If it takes longer than host.RecordAfter, control
// records it, unless it is a purge that the agent has started itself. The failure of a recorded operation is recorded
// as well. Run logs each failure, unless ctx has ended, so callers do not: see package failurelog. The context of do
// has the ID of the request that the operation belongs to.
func (r *Runner) Run(
	ctx context.Context, jb *host.Job, op dataset.Operation, do func(context.Context, *dataset.Operation) error,
) error {
	if requestid.Of(ctx) == "" {
		ctx = requestid.WithBy(requestid.With(ctx, op.RequestID), op.By)
	}
	err := r.run(ctx, jb, op, do)
	if err == nil || ctx.Err() != nil {
		return err // the agent stops, or the caller that sends the data has gone
	}
	r.LogOf(ctx, dataset.Dataset{Volume: op.Volume, ID: op.DatasetID}).WithError(err).
		WithFields(map[string]any{"op": op.ID, "kind": op.Kind}).
		Log(failurelog.LevelOfOperation(err), "operation failed")
	return failurelog.MarkLogged(err)
}

func (r *Runner) run(
	ctx context.Context, jb *host.Job, op dataset.Operation, do func(context.Context, *dataset.Operation) error,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	jb.SetOperation(op)
	planned := copyOperation(op) // do changes op meanwhile
	now := newRunning(op, cancel)
	r.mu.Lock()
	r.running[op.ID] = now
	now.endRecording = func() {}
	// The agent repeats a purge after each start. If its own purges were recorded, each start would leave another
	// operation for a dataset whose pool is offline. A purge that a user requests is recorded already.
	if op.Kind != dataset.OpPurge || now.recorded {
		now.endRecording = r.Jobs.After(ctx, r.Clock, host.RecordAfter,
			func(ctx context.Context) { r.record(ctx, planned) })
	}
	r.mu.Unlock()
	end := func() { // call it last: a later sync can restart a recorded operation that is neither running nor final
		r.mu.Lock()
		delete(r.running, op.ID)
		r.mu.Unlock()
	}
	began := r.Clock.Steady()
	err := do(ctx, &op)
	now.endRecording()
	err = r.addHolders(ctx, op, r.Pools.ExplainOperation(ctx, op, err))
	r.status.OperationEnded(op, err)
	if r.Ended != nil {
		r.Ended(op, err, r.Clock.Steady()-began)
	}
	r.mu.Lock()
	recorded, inDoubt := now.recorded, now.inDoubt
	r.mu.Unlock()
	if err == nil || !recorded && !inDoubt || r.Ctx.Err() != nil {
		end()
		return err // an agent that stops leaves its operations to its next start
	}
	op.Problem = dataset.ProblemOf(err)
	request := ctx
	if !recorded { // control may be unreachable, and the caller must not wait for it
		r.Jobs.Start("failure/"+op.ID.String(), func(ctx context.Context, _ *host.Job) error {
			defer end()
			ctx = requestid.Copy(ctx, request)
			if _, err := r.Report(ctx, &op, nil); err != nil && ctx.Err() == nil {
				requestid.Log(ctx, r.Log).WithError(err).WithField("op", op.ID).
					Warn("cannot report to control that an " +
						"operation failed")
			}
			return nil
		})
		return err
	}
	defer end()
	_, rerr := r.Report(context.WithoutCancel(ctx), &op, nil)
	if errors.Is(rerr, dataset.ErrCancelled) {
		rerr = nil
	}
	return errors.Join(err, rerr)
}

// addHolders adds the holders of the dataset to the error of an operation that was refused because the dataset is in
// use. It adds none to a purge, which is repeated in the background, nor to a move, whose error names the uses of the
// previous home.
func (r *Runner) addHolders(ctx context.Context, op dataset.Operation, err error) error {
	if dataset.KindOf(err) != dataset.ErrInUse || dataset.HoldersOf(err) != nil ||
		op.Kind == dataset.OpPurge || op.Kind == dataset.OpMove {
		return err
	}
	d, known := r.Cache.Dataset(op.DatasetID)
	if !known || d.Home != r.NodeID {
		return err
	}
	return dataset.WithHolders(err, r.Holders.Examine(ctx, d))
}

func newRunning(op dataset.Operation, cancel context.CancelFunc) *running {
	now := &running{cancel: cancel, recorded: op.State == dataset.OpRunning, dataset: op.DatasetID}
	if op.DatasetRecord != nil {
		now.pool, now.made = op.DatasetRecord.Pool, op.DatasetRecord.ID
	}
	return now
}

// copyOperation returns a copy of an operation that shares no records with it.
func copyOperation(op dataset.Operation) dataset.Operation {
	if op.DatasetRecord != nil {
		d := *op.DatasetRecord
		op.DatasetRecord = &d
	}
	if op.Snapshot != nil {
		s := *op.Snapshot
		op.Snapshot = &s
	}
	return op
}

// record has control record a long operation, so that people can watch it.
func (r *Runner) record(ctx context.Context, op dataset.Operation) {
	if ctx.Err() != nil {
		return
	}
	r.setInDoubt(op.ID, true)
	err := r.Control.Record(ctx, r.NodeID, api.Report{Incarnation: r.Incarnation, Operation: op})
	if err == nil || ctx.Err() == nil && !host.InDoubt(err) {
		r.setInDoubt(op.ID, false)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.running[op.ID]; now != nil && err == nil {
		now.recorded = true
	} else if err != nil && ctx.Err() == nil {
		requestid.Log(ctx, r.Log).WithError(err).WithField("op", op.ID).Warn("cannot record a long operation")
	}
}

// Report has control record the outcome of an operation. While control is unreachable it retries: the outcome of a
// change that was made must not be left in doubt. status is that of the dataset after the operation; if it is nil, the
// next heartbeat reports it.
func (r *Runner) Report(ctx context.Context, op *dataset.Operation, status *dataset.DatasetStatus) (
	api.Committed, error) {
	op.Incarnation = r.Incarnation
	mayArrive := r.endRecording(op.ID)
	again := false // an earlier report may have reached control
	for {
		report := api.Report{
			Incarnation: r.Incarnation, Operation: *op, Retry: again || mayArrive, Status: status,
		}
		out, err := r.Control.Commit(ctx, r.NodeID, report)
		if !errors.Is(err, dataset.ErrUnavailable) {
			if err != nil && again && !errors.Is(err, dataset.ErrCancelled) {
				// The answer to an earlier report may have been lost. If control applied that report, it may refuse
				// this one for that reason.
				err = dataset.Errorf(dataset.ErrUnavailable, "%w", err)
			}
			return out, err
		}
		again = true
		r.setInDoubt(op.ID, true)
		select {
		case <-ctx.Done():
			return out, fmt.Errorf("%w (%w)", err, ctx.Err())
		case <-r.Ctx.Done():
			return out, err
		case <-r.Clock.After(r.Timing.Retry):
		}
	}
}

// Commit has control record the outcome, and applies control's answer to the cache. The caller holds the dataset's
// lock: otherwise the dataset could move to another node before the answer is applied. The status of a new dataset is
// reported with the outcome, so that users see it at once.
func (o *Operations) Commit(ctx context.Context, op *dataset.Operation) (api.Committed, error) {
	out, err := o.Runner.Report(ctx, op, o.statusOfNew(ctx, *op))
	if err == nil && out.Dataset != nil && !out.Duplicate && o.IsHome(out) {
		o.Cache.Apply(*out.Dataset, out.Index)
		o.Throttle.ProfileChanged(*out.Dataset)
	}
	return out, err
}

// statusOfNew returns the status of the dataset that an operation has made and not committed yet. It returns nil for
// other operations, and if the pool must start a program to read the usage: each create would take longer.
//
// It calls the pool directly, and not through pool.Pools.Ask, which makes the calls to a pool one after the other:
// concurrent creates would then reach the store one by one. The pool has just made the dataset, so it answers as
// quickly as the operation itself.
func (o *Operations) statusOfNew(ctx context.Context, op dataset.Operation) *dataset.DatasetStatus {
	switch op.Kind {
	case dataset.OpCreate, dataset.OpClone, dataset.OpImport:
	default:
		return nil
	}
	pool, err := o.Pools.Get(op.DatasetRecord.Pool)
	if err != nil || op.Problem != nil {
		return nil
	}
	d, is := *op.DatasetRecord, pool.Info()
	if !is.Capabilities.OwnFilesystem && !is.Capabilities.KnowsUsed {
		return &dataset.DatasetStatus{ID: d.ID} // Used would walk through all files
	}
	if !is.UsedStartsNoProgram {
		return nil
	}
	inPool, usage, err := ReadUsage(ctx, pool, d, nil)
	if err != nil {
		return nil // the next heartbeat reports the problem, if it lasts
	}
	st := &dataset.DatasetStatus{ID: d.ID}
	SetUsed(st, inPool, usage, is.Capabilities.OwnFilesystem)
	if usage != nil && d.Size > 0 {
		st.Fullness = usage.Fullness(d.Profile.WarnAt, dataset.NotFull)
	}
	return st
}

// ReadUsage returns how many bytes a dataset occupies in its pool, and how full it is. It walks no files. seen is the
// usage of its filesystem as df shows it, or nil if that is not known. The usage is nil if the pool knows no limit of
// the dataset. It is also nil if the dataset has a filesystem that is not mounted, because an allocated block of the
// device may be free in the filesystem.
func ReadUsage(ctx context.Context, b backends.Pool, d dataset.Dataset, seen *dataset.Usage) (
	inPool dataset.Size, usage *dataset.Usage, err error) {
	own := b.Info().Capabilities.OwnFilesystem
	inPool, err = b.Used(ctx, d.ID)
	if own && seen != nil {
		return inPool, seen, err
	}
	if err != nil || d.Size <= 0 || own && d.Profile.Filesystem.Type != "" {
		return inPool, nil, err
	}
	if seen != nil && seen.Used+seen.Available <= d.Size {
		// With project quotas, the kernel shows the limit of the directory as the size of the filesystem. Leave out the
		// inodes, which are those of the whole pool.
		return inPool, &dataset.Usage{Used: seen.Used, Available: seen.Available}, nil
	}
	data := min(inPool, d.Size)
	return inPool, &dataset.Usage{Used: data, Available: d.Size - data}, nil
}

// SetUsed sets in a status how many bytes a dataset occupies in its pool, and how many its files use. usage is how full
// it is, or was when it was last mounted. If the dataset shares the filesystem of its pool, both figures mean the same.
func SetUsed(st *dataset.DatasetStatus, inPool dataset.Size, usage *dataset.Usage, ownFilesystem bool) {
	st.InPool, st.Usage = &inPool, usage
	switch {
	case usage != nil:
		st.Used = &usage.Used
	case !ownFilesystem:
		st.Used = &inPool
	}
}

// IsHome reports whether this node is the home of the dataset in an answer. The home can be another node: a caller
// that repeats a request after a lost answer gets the present state, and the dataset may have moved since the
// operation was recorded.
func (o *Operations) IsHome(out api.Committed) bool { return out.Dataset.Home == o.NodeID }

// endRecording ends the request to record an operation. It returns true if control has not answered that request: the
// request may then still arrive. If it arrived after the Commit, the operation would start again. For example, a
// create whose name another request had taken would make a volume that no user requested.
func (r *Runner) endRecording(op uuid.UUID) (mayArrive bool) {
	r.mu.Lock()
	now := r.running[op]
	r.mu.Unlock()
	if now == nil {
		return false
	}
	now.endRecording()
	r.mu.Lock()
	defer r.mu.Unlock()
	return now.inDoubt
}

// setInDoubt notes whether a report of an operation was sent that control has not answered.
func (r *Runner) setInDoubt(op uuid.UUID, inDoubt bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.running[op]; now != nil {
		now.inDoubt = inDoubt
	}
}

// IsRunning reports whether an operation runs now.
func (r *Runner) IsRunning(op uuid.UUID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.running[op] != nil
}

// MarkRecorded notes that control has a record of an operation, and reports whether the operation runs now.
func (r *Runner) MarkRecorded(op uuid.UUID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.running[op]
	if now != nil {
		now.recorded = true
	}
	return now != nil
}

// Recorded returns the running operations that control has recorded.
func (r *Runner) Recorded() (ids []uuid.UUID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, now := range r.running {
		if now.recorded {
			ids = append(ids, id)
		}
	}
	return ids
}

// Cancel cancels an operation if it runs.
func (r *Runner) Cancel(op uuid.UUID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.running[op]; now != nil {
		now.cancel()
	}
}

// PoolsOf returns the pools in which running operations change a dataset.
func (r *Runner) PoolsOf(ds uuid.UUID) (ids []uuid.UUID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, now := range r.running {
		if (now.dataset == ds || now.made == ds) && now.pool != uuid.Nil {
			ids = append(ids, now.pool)
		}
	}
	return ids
}

// Lookup returns control's record of an operation, and whether control answered with one.
func (r *Runner) Lookup(ctx context.Context, id uuid.UUID) (dataset.Operation, bool) {
	op, err := r.Control.Operation(ctx, id.String(), 0)
	return op, err == nil
}

// Handler executes an operation of one kind, and has control record the outcome. It is idempotent by the UUIDs in the
// operation.
type Handler func(ctx context.Context, jb *host.Job, op *dataset.Operation) (api.Committed, error)

// Kinds returns the kinds of operations that this agent executes, for the metrics.
func (o *Operations) Kinds() []dataset.OpKind { return slices.Sorted(maps.Keys(o.handlers)) }

// Execute executes an operation and has control record the outcome. It can be called again for the same operation
// after a crash, because each handler is idempotent by the UUIDs in the operation.
func (o *Operations) Execute(ctx context.Context, jb *host.Job, op dataset.Operation) (out api.Committed, err error) {
	if requestid.Of(ctx) == "" {
		ctx = requestid.WithBy(requestid.With(ctx, op.RequestID), op.By)
	}
	act := o.Handler(op.Kind)
	err = o.Runner.Run(ctx, jb, op, func(ctx context.Context, op *dataset.Operation) error {
		out, err = act(ctx, jb, op)
		return err
	})
	if err != nil {
		return out, err
	}
	if out.Dataset != nil && !out.Duplicate {
		o.Pools.MarkChanged(out.Dataset.Pool, op.Kind == dataset.OpMove)
	}
	o.LogOf(ctx, dataset.Dataset{Volume: op.Volume, ID: op.DatasetID}).
		WithFields(map[string]any{"op": op.ID, "kind": op.Kind}).Info("operation is done")
	o.News.Changed(op.DatasetID)
	return out, nil
}

// Handler returns the function that executes operations of a kind. For a kind that this agent does not know, the
// function fails with ErrUnsupported.
func (o *Operations) Handler(kind dataset.OpKind) Handler {
	if act, known := o.handlers[kind]; known {
		return act
	}
	// Record the failure. Otherwise each sync would start the operation again.
	return func(_ context.Context, _ *host.Job, op *dataset.Operation) (out api.Committed, err error) {
		return out, dataset.Errorf(dataset.ErrUnsupported,
			"operation %s: this agent cannot do %q (is its drover the same as that of control?)", op.ID, op.Kind)
	}
}

// PurgeLater starts a job that destroys a dataset of state purging. If one is in progress, it runs once more
// afterwards, because the record of the dataset may have changed.
func (o *Operations) PurgeLater(d dataset.Dataset) {
	o.Jobs.StartAgain("purge/"+d.ID.String(), func(ctx context.Context, jb *host.Job) error {
		d, known := o.Cache.Dataset(d.ID)
		if !known || d.State != dataset.StatePurging || d.Home != o.NodeID {
			return nil
		}
		_, err := o.Execute(ctx, jb, dataset.Operation{
			ID: uuid.New(), Kind: dataset.OpPurge, Node: o.NodeID,
			Volume: d.Volume, DatasetID: d.ID, Epoch: d.Epoch, State: dataset.OpPending, Created: o.Clock.Now(),
		})
		return err // Execute has logged it, and no caller waits for the job
	})
}

// ExecuteSoon starts a job that executes an operation.
func (o *Operations) ExecuteSoon(key string, op dataset.Operation) {
	o.Jobs.Start(key, func(ctx context.Context, jb *host.Job) error {
		_, err := o.Execute(ctx, jb, op)
		return err // Execute has logged it, and no caller waits for the job
	})
}

// PurgeAll starts to destroy the datasets of state purging whose home is this node.
func (o *Operations) PurgeAll() {
	for _, id := range o.Cache.IDs() {
		if d, ok := o.Cache.Dataset(id); ok && d.State == dataset.StatePurging && d.Home == o.NodeID {
			o.PurgeLater(d)
		}
	}
}
