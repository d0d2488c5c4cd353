package operation_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func rewrites(f *agenttest.Cluster, volume string) dataset.Operation {
	f.Helper()
	out, err := f.Service.Submit(f.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpRewrite, Volume: volume})
	if err != nil {
		f.Fatal(err)
	}
	return *out.Operation
}

// A volume that nobody uses is rewritten, and a volume in use is not.
func TestRewriteOnlyOfIdleVolume(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "dir")
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.A.WriteFile("db", "token", "one")
	if op := f.AwaitEnd(rewrites(f, "db")); op.State != dataset.OpDone {
		t.Errorf("%+v", op.Problem)
	}
	f.A.WantFile("db", "token", "one")
	f.A.MustMount("db", "user")
	if op := f.AwaitEnd(rewrites(f, "db")); op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, "it is mounted by user") {
		t.Errorf("of a volume in use: %+v", op)
	}
	f.A.MustUnmount("db", "user")
	if v, err := f.Service.Volume(t.Context(), "db"); err != nil || v.ID != d.ID {
		t.Errorf("%+v, %v", v, err)
	}
}

// A pool of folders has nothing to rewrite, and does not report a speed for that.
func TestRewriteInPoolOfFoldersDoesNothing(t *testing.T) {
	r := agenttest.NewWithProfiles(t, []byte("default: plain\nprofiles:\n  plain: {}\n"))
	if err := r.Create(t.Context(), "db", nil); err != nil {
		t.Fatal(err)
	}
	err := r.Requests.Perform(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpRewrite, Volume: "db"})
	if !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), "its pool stores files") {
		t.Errorf("%v", err)
	}
}

// endless is a backend that rewrites until it is told to stop.
type endless struct {
	dir.Backend
	began chan struct{}
}

func (e *endless) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := e.Backend.Open(ctx, cfg)
	return &endlessPool{p, e}, err
}

type endlessPool struct {
	backends.Pool
	of *endless
}

func (p *endlessPool) Rewrite(ctx context.Context, _ uuid.UUID, progress backends.Progress) (was, now int, err error) {
	close(p.of.began)
	for ctx.Err() == nil {
		progress(1, 2)
		time.Sleep(time.Millisecond) // like a disk
	}
	return 0, 0, context.Cause(ctx)
}

// A mount does not wait for a rewrite, which fails and says why.
func TestMountInterruptsRewrite(t *testing.T) {
	kind := &endless{began: make(chan struct{})}
	r := agenttest.NewWithProfiles(t, []byte("default: plain\nprofiles:\n  plain: {}\n"), func(c *agent.Config) { c.Backends = backends.NewRegistry(kind) })
	if err := r.Create(t.Context(), "db", nil); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	go func() {
		failed <- r.Requests.Perform(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpRewrite, Volume: "db"})
	}()
	<-kind.began
	if _, err := r.Mount(t.Context(), "db", "user"); err != nil {
		t.Error(err)
	}
	if err := <-failed; !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), "a mount or a move "+
		"arrived") {
		t.Errorf("the rewrite ended with %v", err)
	}
	if err := r.Unmount(t.Context(), "db", "user"); err != nil {
		t.Error(err)
	}
}
