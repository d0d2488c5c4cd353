package host

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/requestid"
)

// Runner runs jobs, at most one for each key. A job belongs to the agent and not to the request that started it: it
// continues if the request ends, and a request for the same key joins it. Safe for concurrent use.
type Runner struct {
	// Abandoned is called with the error of a job that Do started, if every caller of Do stopped waiting before the job
	// ended: no caller gets the error. ctx has the ID and the caller of the request. If nil, it is not called. Set it
	// before the first use.
	Abandoned func(ctx context.Context, what string, err error)

	ctx context.Context
	wg  *sync.WaitGroup
	mu  sync.Mutex
	all map[string]*Job
}

// Job is one piece of work in progress.
type Job struct {
	key   string
	done  chan struct{}
	err   error // valid once done is closed
	rerun bool  // run once more afterwards; protected by Runner.mu

	waiting int    // number of callers of Do that wait; protected by Runner.mu
	what    string // what the caller of Do requested, or "" for a job that Start started

	mu       sync.Mutex
	op       dataset.Operation // has no UUID until SetOperation
	progress dataset.Progress
}

func newJob(key string) *Job { return &Job{key: key, done: make(chan struct{})} }

// Ended returns a channel that is closed when the job has ended.
func (jb *Job) Ended() <-chan struct{} { return jb.done }

// Result returns the error of a job that has ended.
func (jb *Job) Result() error { return jb.err }

// New returns a runner. Jobs receive ctx and should return when it ends. wg counts the jobs in progress.
func New(ctx context.Context, wg *sync.WaitGroup) *Runner {
	return &Runner{ctx: ctx, wg: wg, all: map[string]*Job{}}
}

// Do starts a job with a key, or joins the one in progress, and waits for its end. joined reports whether it joined
// one: the job then runs another fn than the caller's. what describes the request in errors. If ctx ends first, Do
// fails with ErrPending, and the error contains the job's step and progress. Once the agent is stopping, Do starts no
// job and fails with ErrUnavailable. A job that Do starts has the ID and the caller of the request.
func (j *Runner) Do(ctx context.Context, key, what string,
	fn func(ctx context.Context, jb *Job) error) (joined bool, err error) {
	j.mu.Lock()
	jb, joined := j.all[key]
	if !joined {
		if err := j.ctx.Err(); err != nil {
			j.mu.Unlock()
			return false, dataset.Errorf(dataset.ErrUnavailable, "%s: drover is stopping", what)
		}
		jb = newJob(key)
		jb.what = what
		j.all[key] = jb
		j.wg.Add(1)
		go j.run(requestid.Copy(j.ctx, ctx), jb, fn)
	}
	jb.waiting++
	j.mu.Unlock()
	select {
	case <-jb.done:
		return joined, jb.err
	case <-ctx.Done():
	}
	j.mu.Lock()
	ended := j.all[key] != jb
	jb.waiting--
	j.mu.Unlock()
	if ended { // this caller gets the error, so Abandoned does not
		<-jb.done
		return joined, jb.err
	}
	return joined, jb.pending(what)
}

// Close calls stop, which must cancel the context that New was given. After Close, no new job can begin.
func (j *Runner) Close(stop func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	stop()
}

// Go starts a goroutine, which a stop of the agent awaits.
func (j *Runner) Go(f func()) { j.wg.Go(f) }

// run runs a job with a context that ends with j.ctx.
func (j *Runner) run(ctx context.Context, jb *Job, fn func(context.Context, *Job) error) {
	defer j.wg.Done()
	abandoned := false
	for more := true; more; {
		jb.err = fn(ctx, jb)
		j.mu.Lock()
		if more = jb.rerun && j.ctx.Err() == nil; !more {
			delete(j.all, jb.key)
		}
		jb.rerun = false
		abandoned = jb.what != "" && jb.waiting == 0
		j.mu.Unlock()
	}
	if abandoned && jb.err != nil && j.ctx.Err() == nil && j.Abandoned != nil {
		j.Abandoned(ctx, jb.what, jb.err)
	}
	close(jb.done)
}

// Running returns the operations of the jobs in progress, each with its progress.
func (j *Runner) Running() []dataset.Operation {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []dataset.Operation
	for _, jb := range j.all {
		jb.mu.Lock()
		if jb.op.ID != uuid.Nil {
			op := dataset.Operation{ID: jb.op.ID, Kind: jb.op.Kind, DatasetID: jb.op.DatasetID, Progress: jb.progress}
			out = append(out, op)
		}
		jb.mu.Unlock()
	}
	return out
}

// WorksOn reports whether the operation of a job in progress changes a dataset, or makes it.
func (j *Runner) WorksOn(id uuid.UUID) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, jb := range j.all {
		jb.mu.Lock()
		op := jb.op
		jb.mu.Unlock()
		if op.ID != uuid.Nil && (op.DatasetID == id || op.DatasetRecord != nil && op.DatasetRecord.ID == id) {
			return true
		}
	}
	return false
}

// IsRunning reports whether a job with a key is in progress.
func (j *Runner) IsRunning(key string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.all[key] != nil
}

// Progress returns the progress of the job with a key, or the zero value if there is no such job.
func (j *Runner) Progress(key string) dataset.Progress {
	j.mu.Lock()
	defer j.mu.Unlock()
	jb := j.all[key]
	if jb == nil {
		return dataset.Progress{}
	}
	jb.mu.Lock()
	defer jb.mu.Unlock()
	return jb.progress
}

// SetOperation records which operation the job executes.
func (jb *Job) SetOperation(op dataset.Operation) {
	jb.mu.Lock()
	defer jb.mu.Unlock()
	jb.op = op
}

// Step sets the present step of the job.
func (jb *Job) Step(name string) {
	jb.mu.Lock()
	defer jb.mu.Unlock()
	jb.progress = dataset.Progress{Step: name}
}

// SetWaitingStep sets the present step of a job that is about to wait for an event outside of it, such as the return of
// a pool. SetWaitingStep itself does not block.
func (jb *Job) SetWaitingStep(step string) {
	jb.mu.Lock()
	defer jb.mu.Unlock()
	jb.progress = dataset.Progress{Step: step, Waiting: true}
}

// SetProgress records the progress of a copy in this step: done of total bytes.
func (jb *Job) SetProgress(done, total int64) {
	jb.mu.Lock()
	defer jb.mu.Unlock()
	jb.progress.Done, jb.progress.Total = done, total
}

func (jb *Job) pending(what string) error {
	jb.mu.Lock()
	defer jb.mu.Unlock()
	return Pending(what, jb.op.ID, jb.progress)
}

// Pending returns the ErrPending for a caller that no longer waits for its request. The error contains the progress of
// the request, and the UUID of its operation if that is known.
func Pending(what string, op uuid.UUID, progress dataset.Progress) error {
	at := progress.Step
	at = cmp.Or(at, "waiting")
	if progress.Total > 0 {
		at += ", " + dataset.Size(progress.Done).Human() + " of " + dataset.Size(progress.Total).Human()
	}
	if op == uuid.Nil {
		return dataset.Errorf(dataset.ErrPending, "%s takes long and continues (%s): try again", what, at)
	}
	return dataset.PendingOn(op,
		"%s continues as operation %s (%s): try again, or drover operation inspect --wait %s", what, op.String()[:8],
		at, op.String()[:8])
}

// Count returns how many jobs are in progress.
func (j *Runner) Count() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.all)
}

// Start starts a job with a key, or returns the one in progress, which then runs another fn than the caller's. A caller
// whose fn must run in any case needs a key that no other function uses. Start does not wait for the job. Once the
// agent is stopping, Start starts nothing, and returns a job that has ended with an error.
func (j *Runner) Start(key string, fn func(ctx context.Context, jb *Job) error) *Job {
	return j.launch(key, fn, false)
}

// StartAgain is like Start. If a job with the key is in progress, the job runs once more afterwards, because its
// input may have changed. The second run uses the fn with which the job was started.
func (j *Runner) StartAgain(key string, fn func(ctx context.Context, jb *Job) error) *Job {
	return j.launch(key, fn, true)
}

func (j *Runner) launch(key string, fn func(ctx context.Context, jb *Job) error, again bool) *Job {
	j.mu.Lock()
	defer j.mu.Unlock()
	if jb, runs := j.all[key]; runs {
		jb.rerun = jb.rerun || again
		return jb
	}
	jb := newJob(key)
	if jb.err = j.ctx.Err(); jb.err != nil {
		close(jb.done)
		return jb
	}
	j.all[key] = jb
	j.wg.Add(1)
	go j.run(j.ctx, jb, fn)
	return jb
}

// Ends returns the channels that are closed when the jobs end.
func Ends(all []*Job) (list []<-chan struct{}) {
	for _, jb := range all {
		list = append(list, jb.Ended())
	}
	return list
}

// After calls fn once d has passed, unless stop is called or ctx ends first. stop ends the context of fn, and waits
// until fn has returned.
func (j *Runner) After(ctx context.Context, c clock.Clock, d time.Duration, fn func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	j.wg.Go(func() {
		defer close(done)
		select {
		case <-c.After(d):
			fn(ctx)
		case <-ctx.Done():
		}
	})
	return func() { cancel(); <-done }
}
