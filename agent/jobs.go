package agent

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// jobs is the work in flight, one job a key. A job belongs to the agent and not
// to the request that began it: it goes on when the request gives up, and who
// asks for the same again joins it.
type jobs struct {
	ctx context.Context
	wg  *sync.WaitGroup
	mu  sync.Mutex
	all map[string]*job
}

type job struct {
	key   string
	done  chan struct{}
	err   error
	again bool // run once more when it has run; under jobs.mu

	mu       sync.Mutex
	op       dataset.Operation // nil ID until it is known
	progress dataset.Progress
}

func newJobs(ctx context.Context, wg *sync.WaitGroup) *jobs {
	return &jobs{ctx: ctx, wg: wg, all: map[string]*job{}}
}

// do runs fn as the job of that key, or joins the one that runs, and waits for
// its end or for ctx: then the error is ErrPending and names the operation, what
// it does and how far it is. joined tells that fn was not run for this caller.
func (j *jobs) do(ctx context.Context, key, what string, fn func(ctx context.Context, jb *job) error) (joined bool, err error) {
	j.mu.Lock()
	jb, joined := j.all[key]
	if !joined {
		if err := j.ctx.Err(); err != nil {
			j.mu.Unlock()
			return false, dataset.Errorf(dataset.ErrUnavailable, "%s: drover is stopping", what)
		}
		jb = &job{key: key, done: make(chan struct{})}
		j.all[key] = jb
		j.wg.Add(1)
		go j.run(jb, fn)
	}
	j.mu.Unlock()
	select {
	case <-jb.done:
		return joined, jb.err
	case <-ctx.Done():
		return joined, jb.pending(what)
	}
}

// close lets no new job begin and calls stop, which ends the context of those
// that run.
func (j *jobs) close(stop func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	stop()
}

func (j *jobs) run(jb *job, fn func(context.Context, *job) error) {
	defer j.wg.Done()
	for more := true; more; {
		jb.err = fn(j.ctx, jb)
		j.mu.Lock()
		if more = jb.again && j.ctx.Err() == nil; !more {
			delete(j.all, jb.key)
		}
		jb.again = false
		j.mu.Unlock()
	}
	close(jb.done)
}

// running returns the operations of the jobs in flight with their progress.
func (j *jobs) running() []dataset.Operation {
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

func (jb *job) begin(op dataset.Operation) {
	jb.mu.Lock()
	defer jb.mu.Unlock()
	jb.op = op
}

func (jb *job) step(name string) {
	jb.mu.Lock()
	defer jb.mu.Unlock()
	jb.progress = dataset.Progress{Step: name}
}

func (jb *job) moved(done, total int64) {
	jb.mu.Lock()
	defer jb.mu.Unlock()
	jb.progress.Done, jb.progress.Total = done, total
}

func (jb *job) pending(what string) error {
	jb.mu.Lock()
	defer jb.mu.Unlock()
	at := jb.progress.Step
	if at == "" {
		at = "waiting"
	}
	if jb.progress.Total > 0 {
		at += ", " + dataset.Size(jb.progress.Done).Human() + " of " + dataset.Size(jb.progress.Total).Human()
	}
	if jb.op.ID == uuid.Nil {
		return dataset.Errorf(dataset.ErrPending, "%s takes long and goes on (%s): ask again", what, at)
	}
	return dataset.Errorf(dataset.ErrPending, "%s goes on as operation %s (%s): ask again, or drover operation watch %s", what, jb.op.ID.String()[:8], at, jb.op.ID.String()[:8])
}

// apart returns a copy of an operation whose records are its own.
func apart(op dataset.Operation) dataset.Operation {
	if op.Dataset != nil {
		d := *op.Dataset
		op.Dataset = &d
	}
	if op.Snapshot != nil {
		s := *op.Snapshot
		op.Snapshot = &s
	}
	return op
}

// slow calls fn once the job has run for d, unless stop is called first.
func (a *Agent) slow(ctx context.Context, d time.Duration, fn func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	a.wg.Add(1)
	done := make(chan struct{})
	go func() {
		defer a.wg.Done()
		defer close(done)
		select {
		case <-a.Clock.After(d):
			fn(ctx)
		case <-ctx.Done():
		}
	}()
	return func() { cancel(); <-done }
}

// start runs fn as the job of that key unless one runs already, and returns it; nobody has to
// wait.
func (j *jobs) start(key string, fn func(ctx context.Context, jb *job) error) *job {
	return j.begin(key, fn, false)
}

// startAgain is start, and has one that runs already run once more: what it looked at
// may have changed since.
func (j *jobs) startAgain(key string, fn func(ctx context.Context, jb *job) error) *job {
	return j.begin(key, fn, true)
}

func (j *jobs) begin(key string, fn func(ctx context.Context, jb *job) error, again bool) *job {
	j.mu.Lock()
	defer j.mu.Unlock()
	if jb, runs := j.all[key]; runs {
		jb.again = jb.again || again
		return jb
	}
	jb := &job{key: key, done: make(chan struct{})}
	if jb.err = j.ctx.Err(); jb.err != nil {
		close(jb.done)
		return jb
	}
	j.all[key] = jb
	j.wg.Add(1)
	go j.run(jb, fn)
	return jb
}
