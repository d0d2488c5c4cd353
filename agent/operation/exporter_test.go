package operation_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

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
