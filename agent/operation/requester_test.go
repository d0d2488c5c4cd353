package operation_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// slow is backend dir whose calls take as long as the test wants.
type slow struct {
	dir.Backend
	entered chan string   // gets the name of each call
	gate    chan struct{} // a call waits for this
}

func newSlow() *slow { return &slow{entered: make(chan string, 16), gate: make(chan struct{})} }

func (s *slow) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := s.Backend.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &slowPool{p, s}, nil
}

type slowPool struct {
	backends.Pool
	slow *slow
}

func (p *slowPool) wait(ctx context.Context, call string) error {
	p.slow.entered <- call
	select {
	case <-p.slow.gate:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *slowPool) Create(ctx context.Context, d dataset.Dataset) (dataset.Size, error) {
	if err := p.wait(ctx, "create"); err != nil {
		return 0, err
	}
	return p.Pool.Create(ctx, d)
}

func (p *slowPool) Attach(ctx context.Context, id uuid.UUID, o backends.AttachOptions) (backends.Attachment, error) {
	if err := p.wait(ctx, "attach"); err != nil {
		return backends.Attachment{}, err
	}
	return p.Pool.Attach(ctx, id, o)
}

func (s *slow) use(cfg *agent.Config) { cfg.Backends = backends.NewRegistry(s) }

// impatient calls f with a context that ends once the backend works on the call.
func (s *slow) impatient(t *testing.T, call string, f func(context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	if got := <-s.entered; got != call {
		t.Fatalf("the backend is at %s, not %s", got, call)
	}
	cancel()
	return <-done
}

var operationID = regexp.MustCompile(`operation ([0-9a-f]{8}) \(making\)`)

// A create that takes longer than its caller waits continues. The error names the operation, which is recorded and
// can be watched. Other requests are served meanwhile, and a repeated request joins the create.
func TestI8SlowCreateReportsOperation(t *testing.T) {
	s := newSlow()
	r := agenttest.New(t, s.use)
	ctx := t.Context()
	err := s.impatient(t, "create", func(ctx context.Context) error { return r.Create(ctx, "db", nil) })
	named := operationID.FindStringSubmatch(err.Error())
	if !errors.Is(err, dataset.ErrPending) || named == nil || !strings.Contains(err.Error(), "create of volume db continues as operation") {
		t.Fatalf("got %v", err)
	}

	agenttest.Await(t, func() bool {
		r.FakeClock.Advance(host.RecordAfter)
		op, err := r.Control.Operation(ctx, named[1], 0)
		return err == nil && op.State == dataset.OpRunning && op.Volume == "db"
	})
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := r.Create(gone, "db", nil); !errors.Is(err, dataset.ErrPending) || !strings.Contains(err.Error(), named[1]) {
		t.Errorf("asked again: %v", err)
	}
	if list, err := r.List(ctx); err != nil || len(list) != 0 {
		t.Errorf("list: %v, %v", list, err)
	}

	again := make(chan error, 1)
	go func() { again <- r.Create(ctx, "db", nil) }()
	close(s.gate)
	require.NoError(t, <-again)
	op, err := r.Control.Operation(ctx, named[1], time.Minute)
	if err != nil || op.State != dataset.OpDone {
		t.Errorf("%+v, %v", op, err)
	}
	if made := r.ListPool("datasets"); len(made) != 1 {
		t.Errorf("in the pool: %v", made)
	}
}

// A long create that is cancelled is undone, and its name is free.
func TestCancelledCreateLeavesNothing(t *testing.T) {
	s := newSlow()
	r := agenttest.New(t, s.use)
	ctx := t.Context()
	err := s.impatient(t, "create", func(ctx context.Context) error { return r.Create(ctx, "db", nil) })
	named := operationID.FindStringSubmatch(err.Error())
	if named == nil {
		t.Fatal(err)
	}
	agenttest.Await(t, func() bool {
		r.FakeClock.Advance(host.RecordAfter)
		_, err := r.Control.CancelOperation(ctx, named[1])
		return err == nil
	})
	agenttest.Await(t, func() bool { return len(r.Jobs.Running()) == 0 })
	for _, area := range []string{"datasets", "incoming", "deleting"} {
		if left := r.ListPool(area); len(left) != 0 {
			t.Errorf("%s: %v", area, left)
		}
	}
	close(s.gate)
	if err := r.Create(ctx, "db", nil); err != nil {
		t.Error(err)
	}
}

// A mount that takes longer than its caller waits counts no use. The next request makes the first use. Without one,
// the volume is unmounted.
func TestI8SlowMountCountsNoUse(t *testing.T) {
	s := newSlow()
	r := agenttest.New(t, s.use)
	ctx := t.Context()
	go func() { <-s.entered }()
	go func() { s.gate <- struct{}{} }()
	d := r.NewVolume("db")
	err := s.impatient(t, "attach", func(ctx context.Context) error {
		_, err := r.Mount(ctx, "db", "first")
		return err
	})
	if !errors.Is(err, dataset.ErrPending) || !strings.Contains(err.Error(), "mount of volume db") {
		t.Fatalf("got %v", err)
	}
	close(s.gate)
	agenttest.Await(t, func() bool { mounted, _ := host.IsMountPoint(r.MountPath(d.ID)); return mounted })
	if rec := r.Uses.Get(d.ID); len(rec.IDs) != 0 {
		t.Errorf("uses: %v", rec.IDs)
	}
	r.MountDataset(d, "second")
	r.WantUses(d, "second")
	require.NoError(t, r.Unmount(ctx, "db", "second"))
	r.WantUses(d)

	// No further request comes.
	require.NoError(t, r.EnsureMounted(ctx, d, 0))
	r.FakeClock.Advance(mounting.IdleLimit)
	r.Unmounter.UnmountIdle()
	agenttest.Await(t, func() bool { mounted, err := host.IsMountPoint(r.MountPath(d.ID)); return err == nil && !mounted })
}

// beside starts the agent of another node with the same control, with a pool called other.
func beside(r *agenttest.Host) *agenttest.Host {
	r.T.Helper()
	return agenttest.New(r.T, func(cfg *agent.Config) {
		cfg.Control, cfg.NodeName = r.Link, "host-b"
		cfg.Pools = []pool.Config{{Name: "other", Backend: "dir", Path: filepath.Join(cfg.Root, "pool")}}
	})
}

// TestCreateOnChosenNode: the requesting agent waits for the other node. Any number of concurrent Creates on both
// nodes make one dataset, and all succeed (I5).
func TestCreateOnChosenNode(t *testing.T) {
	a := agenttest.New(t)
	b := beside(a)
	var all sync.WaitGroup
	for i := range 12 {
		asked := []*agenttest.Host{a, b}[i%2]
		all.Go(func() {
			if err := asked.Create(t.Context(), "db@bronze", map[string]string{"pool": "other"}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	v, err := a.Control.Volume(t.Context(), "db")
	if err != nil || v.Home != b.NodeID {
		t.Fatalf("%+v, %v", v, err)
	}
	for _, r := range []*agenttest.Host{a, b} {
		got, err := r.Get(t.Context(), "db@bronze")
		if err != nil || got.Spelling != "db@bronze" {
			t.Errorf("%s: %+v, %v", r.NodeName, got, err)
		}
	}
	if used := a.Spellings.Used(v.Dataset); len(used) != 1 || used[0] != "db@bronze" {
		t.Errorf("the asking engine's spelling is not known: %q", used)
	}
	if n := len(b.ListPool("datasets")); n != 1 {
		t.Errorf("%d datasets in the pool", n)
	}
	if err := a.Create(t.Context(), "db@silver", map[string]string{"pool": "other"}); !errors.Is(err, dataset.ErrExists) {
		t.Errorf("a create of the existing volume with another profile: %v", err)
	}
}

// TestRepeatedCreateResumesOnOtherNode: the error names the operation and the node for which the caller waits. A
// repeated request waits for the same operation (I8).
func TestRepeatedCreateResumesOnOtherNode(t *testing.T) {
	a := agenttest.New(t)
	b := beside(a)
	opts := map[string]string{"pool": "other"}
	cfg := b.Config
	b.Stop()
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		asked := make(chan error, 1)
		go func() { asked <- a.Create(ctx, "db", opts) }()
		awaitRunning(a, asked)
		cancel()
		err := <-asked
		if !errors.Is(err, dataset.ErrPending) || !strings.Contains(err.Error(), "waits for node "+b.NodeID.String()[:8]) || !strings.Contains(err.Error(), "operation inspect --wait") {
			t.Fatal(err)
		}
	}
	list, err := a.Control.Operations(t.Context(), api.Page{})
	if err != nil || len(list.Items) != 1 || list.Items[0].Node != b.NodeID {
		t.Fatalf("%+v, %v", list.Items, err)
	}
	b.StartWith(cfg)
	require.NoError(t, a.Create(t.Context(), "db", opts))
	if v, err := a.Control.Volume(t.Context(), "db"); err != nil || v.Home != b.NodeID {
		t.Errorf("%+v, %v", v, err)
	}
}

// TestErrorOfOtherNodeIsReported: the error contains the reason and the node.
func TestErrorOfOtherNodeIsReported(t *testing.T) {
	a := agenttest.New(t)
	b := beside(a)
	cfg := b.Config
	b.Stop()
	asked := make(chan error, 1)
	go func() { asked <- a.Create(t.Context(), "db", map[string]string{"pool": "other"}) }()
	op := awaitRunning(a, asked)
	if _, err := a.Control.CancelOperation(t.Context(), op.ID.String()); err != nil {
		t.Fatal(err)
	}
	err := <-asked
	if !errors.Is(err, dataset.ErrCancelled) || !strings.Contains(err.Error(), "node "+b.NodeID.String()[:8]+": cancelled by request") {
		t.Errorf("%v", err)
	}
	if _, err := a.Control.Volume(t.Context(), "db"); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("%v", err)
	}
	b.StartWith(cfg)
}

// awaitRunning returns the operation of a request once its agent works on it.
func awaitRunning(r *agenttest.Host, asked chan error) dataset.Operation {
	r.T.Helper()
	for {
		if running := r.Jobs.Running(); len(running) > 0 {
			return running[0]
		}
		select {
		case err := <-asked:
			r.T.Fatalf("it has ended, before it was seen: %v", err)
		default:
			yield(r.T)
		}
	}
}

// yield lets other goroutines run.
func yield(t *testing.T) {
	t.Helper()
	if t.Context().Err() != nil {
		t.Fatal("it did not come")
	}
	runtime.Gosched()
}

// An export reports which sockets are missing from its archive.
func TestExportReportsSkippedSockets(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	head := filepath.Join(r.Root, "pool/datasets", d.ID.String(), "head")
	require.NoError(t, unix.Mknod(filepath.Join(head, "mysql.sock"), unix.S_IFSOCK|0o600, 0))
	var archive bytes.Buffer
	lacks, err := r.Export(t.Context(), "db", "", &archive)
	if err != nil || lacks.Count != 1 || len(lacks.First) != 1 || lacks.First[0] != "mysql.sock" {
		t.Errorf("%+v, %v", lacks, err)
	}
}

// prepare prepares clones.
type prepare func(ctx context.Context) (context.Context, func() bool, error)

func (p prepare) Prepare(ctx context.Context, _ backends.Pool, _ dataset.Dataset) (context.Context, func() bool,
	error) {
	return p(ctx)
}

// The time of a clone is that of its content: it is read after the flush, which may take long.
func TestTimeOfCloneIsReadAfterFlush(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	now := fakes.NewClock(time.Unix(1e9, 0))
	refused := errors.New("refused")
	var err error
	o := operation.New(&mounting.Mounts{Host: &host.Host{Root: r.Root, Clock: now}}, nil)
	o.Quiescer = prepare(func(ctx context.Context) (context.Context, func() bool, error) {
		now.Advance(time.Minute)
		return ctx, func() bool { now.Advance(time.Hour); return true }, err
	})
	clone := d
	clone.ID, clone.Size = uuid.New(), 0
	taken, exact, cloneErr := o.Clone(t.Context(), r.Pool(), d, clone, dataset.Source{Dataset: d.ID})
	if cloneErr != nil || !exact || !taken.Equal(time.Unix(1e9+60, 0)) {
		t.Errorf("taken at %s, exact %v, %v", taken, exact, cloneErr)
	}
	err = refused
	if _, _, cloneErr := o.Clone(t.Context(), r.Pool(), d, clone, dataset.Source{Dataset: d.ID}); !errors.Is(cloneErr, refused) {
		t.Errorf("got %v", cloneErr)
	}
}
