package host

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/requestid"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func newTestJobs(t *testing.T) *Runner {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	j := New(ctx, &wg)
	t.Cleanup(func() {
		j.Close(stop)
		wg.Wait()
	})
	return j
}

// There is one job for each key. A request with the same key joins the job and gets its outcome. After the job has
// ended, the next request starts a new one.
func TestJobsJoin(t *testing.T) {
	j := newTestJobs(t)
	var runs atomic.Int64
	gate, begun := make(chan struct{}), make(chan struct{})
	failure := errors.New("it failed")
	work := func(context.Context, *Job) error {
		if runs.Add(1) == 1 {
			close(begun)
		}
		<-gate
		return failure
	}
	var wg sync.WaitGroup
	var joined atomic.Int64
	ask := func() {
		was, err := j.Do(t.Context(), "key", "work", work)
		assert.ErrorIs(t, err, failure)
		if was {
			joined.Add(1)
		}
	}
	wg.Go(ask)
	<-begun
	for range 9 {
		wg.Go(ask)
	}
	if n := j.Count(); n != 1 {
		t.Errorf("%d jobs of one key are in progress, want 1", n)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	// All nine have joined after these rounds. A later request would start a new job.
	for range 1000 {
		if _, err := j.Do(gone, "key", "work", work); !errors.Is(err, dataset.ErrPending) {
			t.Fatalf("got %v", err)
		}
	}
	close(gate)
	wg.Wait()
	if runs.Load()+joined.Load() != 10 {
		t.Errorf("%d ran and %d joined, of 10", runs.Load(), joined.Load())
	}
	if n := len(j.Running()); n != 0 {
		t.Errorf("%d jobs are left", n)
	}
	before := runs.Load()
	if was, _ := j.Do(t.Context(), "key", "work", work); was || runs.Load() != before+1 {
		t.Errorf("joined a job that had ended")
	}
}

// A caller that stops waiting learns what is in progress, how far it is and where to ask.
func TestJobsPending(t *testing.T) {
	j := newTestJobs(t)
	gate := make(chan struct{})
	defer close(gate)
	id := uuid.New()
	for _, c := range []struct {
		key   string
		begin func(jb *Job)
		says  []string
	}{
		{"nothing", func(*Job) {}, []string{"snapshot of db takes long and continues (waiting)", "try again"}},
		{"step", func(jb *Job) { jb.Step("copying") }, []string{"(copying)"}},
		{"far", func(jb *Job) {
			jb.SetOperation(dataset.Operation{ID: id, Kind: dataset.OpImport})
			jb.Step("copying")
			jb.SetProgress(1<<30, 2<<30)
		}, []string{"continues as operation " + id.String()[:8], "copying, 1GiB of 2GiB", "drover operation inspect --wait " + id.String()[:8]}},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := j.Do(ctx, c.key, "snapshot of db", func(_ context.Context, jb *Job) error {
			c.begin(jb)
			cancel()
			<-gate
			return nil
		})
		require.ErrorIsf(t, err, dataset.ErrPending, "%s", c.key)
		for _, says := range c.says {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %q does not say %q", c.key, err, says)
			}
		}
	}
	running := j.Running()
	if len(running) != 1 || running[0].ID != id || running[0].Progress.Done != 1<<30 {
		t.Errorf("running: %+v", running)
	}
}

// A stopping agent starts no new jobs, and waits for those in progress.
func TestJobsClose(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	j := New(ctx, &wg)
	ended := false
	begun := make(chan struct{})
	j.Start("key", func(ctx context.Context, _ *Job) error {
		close(begun)
		<-ctx.Done()
		ended = true
		return nil
	})
	<-begun
	j.Start("key", func(context.Context, *Job) error { t.Error("a second job of that key"); return nil })
	j.Close(stop)
	wg.Wait()
	if !ended {
		t.Error("it was not waited for")
	}
	if _, err := j.Do(t.Context(), "other", "work", nil); !errors.Is(err, dataset.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	j.Start("other", nil)
}

// If something changes while a job runs, the job runs once more, however often it changes. No second job runs at the
// same time.
func TestStartAgain(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	j := New(ctx, &wg)
	var mu sync.Mutex
	runs, beside := 0, 0
	begun, goOn := make(chan struct{}, 10), make(chan struct{})
	look := func(context.Context, *Job) error {
		mu.Lock()
		runs++
		beside++
		if beside > 1 {
			t.Error("two at once")
		}
		mu.Unlock()
		begun <- struct{}{}
		<-goOn
		mu.Lock()
		beside--
		mu.Unlock()
		return nil
	}
	j.StartAgain("k", look)
	<-begun
	for range 5 {
		j.StartAgain("k", look)
	}
	j.Start("k", look) // this request needs only that the job runs
	goOn <- struct{}{}
	<-begun
	goOn <- struct{}{}
	wg.Wait()
	if runs != 2 {
		t.Errorf("%d runs", runs)
	}
}

// A job has the ID and the caller of the request that started it. If nobody waits for the job any more, its failure is
// passed to Abandoned once, and otherwise never.
func TestAbandonedJob(t *testing.T) {
	j := newTestJobs(t)
	failure := errors.New("it failed")
	abandoned := make(chan string, 2)
	j.Abandoned = func(ctx context.Context, what string, err error) {
		abandoned <- requestid.Of(ctx) + " " + requestid.By(ctx) + " " + what + ": " + err.Error()
	}
	for _, waits := range []bool{true, false} {
		gate, begun := make(chan struct{}), make(chan struct{})
		ctx, leave := context.WithCancel(requestid.WithBy(requestid.With(t.Context(), "deploy-17"), "operator ann"))
		ended := make(chan error, 1)
		go func() {
			_, err := j.Do(ctx, "key", "mount", func(ctx context.Context, _ *Job) error {
				close(begun)
				<-gate
				return failure
			})
			ended <- err
		}()
		<-begun
		if waits {
			close(gate)
			if err := <-ended; !errors.Is(err, failure) || len(abandoned) > 0 {
				t.Errorf("%v, %d failures abandoned", err, len(abandoned))
			}
			leave()
			continue
		}
		leave()
		assert.ErrorIs(t, <-ended, dataset.ErrPending)
		close(gate)
		if got := <-abandoned; got != "deploy-17 operator ann mount: it failed" {
			t.Error(got)
		}
	}
}

// A lock has one holder at a time, and an unused lock is removed.
func TestSet(t *testing.T) {
	var l Set
	ids := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
	inside, n := make([]int, len(ids)), make([]int, len(ids))
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			k := i % len(ids)
			unlock, err := l.Lock(t.Context(), ids[k], "count")
			if err != nil {
				t.Error(err)
				return
			}
			if inside[k]++; inside[k] != 1 {
				t.Errorf("%d at once", inside[k])
			}
			n[k]++
			inside[k]--
			unlock()
		})
	}
	wg.Wait()
	if n[0] != 100 || n[1] != 100 || n[2] != 100 || len(l.all) != 0 {
		t.Errorf("counted %v; %d unused locks were not removed", n, len(l.all))
	}
}

// The error of a wait that ends describes the holder's work, and the lock can still be taken. A lock that is
// free is taken even if the context has ended.
func TestLockCancelled(t *testing.T) {
	var l Set
	id := uuid.New()
	unlock, err := l.Lock(t.Context(), id, "restore of volume db")
	require.NoError(t, err)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = l.Lock(gone, id, "mount of volume db")
	if !errors.Is(err, dataset.ErrPending) || !strings.Contains(err.Error(), "mount of volume db") || !strings.Contains(err.Error(), "restore of volume db") {
		t.Errorf("got %v", err)
	}
	unlock()
	if len(l.all) != 0 {
		t.Errorf("%d unused locks were not removed", len(l.all))
	}
	again, err := l.Lock(gone, id, "mount of volume db")
	require.NoError(t, err)
	again()
}

// A snapshot is taken for all replicas if there are several, rarely, and never for a move.
func TestTakenFor(t *testing.T) {
	x, y := uuid.New(), uuid.New()
	now := time.Now()
	d := dataset.Dataset{Copies: []uuid.UUID{x, y}, Epoch: 3}
	d.Profile.Replicas.Every = dataset.Duration(time.Minute)
	with := func(change func(*dataset.Dataset)) dataset.Dataset {
		out := d
		change(&out)
		return out
	}
	took := func(age time.Duration, epoch uint64) backends.Entry {
		return backends.Entry{Snapshots: []dataset.Snapshot{{Kind: dataset.SnapshotTransfer, Epoch: epoch, Created: now.Add(-age)}}}
	}
	for name, c := range map[string]struct {
		d     dataset.Dataset
		e     backends.Entry
		node  uuid.UUID
		alone bool
	}{
		"none was":               {d: d, node: x},
		"one was lately":         {d: d, e: took(time.Minute, 3), node: x, alone: true},
		"one was long ago":       {d: d, e: took(4*time.Minute, 3), node: x},
		"the clock was set back": {d: d, e: took(-time.Hour, 3), node: x},
		"by an earlier home":     {d: d, e: took(time.Minute, 2), node: x},
		"for no replica":         {d: d, node: uuid.New(), alone: true},
		"the only one":           {d: with(func(d *dataset.Dataset) { d.SupersededCopies = []uuid.UUID{y} }), node: x, alone: true},
		"it moves":               {d: with(func(d *dataset.Dataset) { d.Move = uuid.New() }), node: x, alone: true},
	} {
		want := uuid.Nil
		if c.alone {
			want = c.node
		}
		if got := SnapshotRecipient(c.d, c.e, c.node, now); got != want {
			t.Errorf("%s: it is taken for %s", name, got)
		}
	}
}

func check(args, allowed []string) error { return (&Programs{Allowed: allowed}).Check(args) }

// A program that a profile names runs as root. So only root may be able to change it or replace it by something else,
// and this host must allow it.
func TestCheckProgram(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "sub", "off")
	require.NoError(t, errors.Join(os.Mkdir(filepath.Dir(file), 0o755), os.WriteFile(file, nil, 0o755)))
	assert.NoError(t, check([]string{file}, nil))
	assert.NoError(t, check([]string{file, "-f"}, []string{"/bin/off", file}))
	for _, allowed := range [][]string{{}, {"/bin/off"}} {
		if err := check([]string{file, "/bin/off"}, allowed); dataset.KindOf(err) != dataset.ErrForbidden || !strings.Contains(err.Error(), "fence_programs") {
			t.Errorf("%q: %v", allowed, err)
		}
	}
	for what, change := range map[string]func() error{
		"for a group to write":      func() error { return os.Chmod(file, 0o775) },
		"another's":                 func() error { return errors.Join(os.Chmod(file, 0o755), os.Chown(file, 1000, 0)) },
		"a folder":                  func() error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o755)) },
		"in a folder of another":    func() error { return os.Chown(filepath.Dir(file), 1000, 0) },
		"in a folder for all":       func() error { return os.Chmod(filepath.Dir(file), 0o777|os.ModeSticky) },
		"below a folder of another": func() error { return os.Chown(dir, 1000, 0) },
		"below a folder of a group": func() error { return os.Chmod(dir, 0o775) },
		"a link in a folder of another": func() error {
			return errors.Join(os.Rename(file, dir+"/off"), os.Symlink(dir+"/off", file), os.Chown(filepath.Dir(file), 1000, 0))
		},
	} {
		require.NoError(t, change())
		if err := check([]string{file}, nil); dataset.KindOf(err) != dataset.ErrForbidden {
			t.Errorf("%s: %v", what, err)
		}
		sub := filepath.Dir(file)
		require.NoError(t, errors.Join(os.RemoveAll(sub), os.Mkdir(sub, 0o755), os.WriteFile(file, nil, 0o755), os.Chown(dir, 0, 0), os.Chmod(dir, 0o755)))
	}
	if err := check([]string{file + "x"}, nil); dataset.KindOf(err) != dataset.ErrNotFound {
		t.Error(err)
	}
	if err := check([]string{"off"}, nil); dataset.KindOf(err) != dataset.ErrInvalid {
		t.Error(err)
	}
}
