package record_test

import (
	"context"
	"errors"
	"testing"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// An error of the store keeps its kind, and an unknown outcome stays unknown.
func TestErrorsOfStores(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	refusedConnection := errors.New("connection refused")
	for _, c := range []struct {
		ctx         context.Context
		err         error
		read, write *dataset.Kind
	}{
		{context.Background(), refusedConnection, dataset.ErrUnavailable, dataset.ErrUnavailable},
		{context.Background(), store.ErrClosed, dataset.ErrUnavailable, dataset.ErrUnavailable},
		{context.Background(), store.ErrTooLarge, dataset.ErrUnavailable, dataset.ErrInvalid},
		{context.Background(), context.DeadlineExceeded, dataset.ErrUnavailable, dataset.ErrUnavailable}, // from the store itself
		{context.Background(), dataset.Errorf(dataset.ErrNoSpace, "disk full"), dataset.ErrUnavailable, dataset.ErrUnavailable},
		{context.Background(), dataset.Errorf(dataset.ErrCorrupt, "value of x"), dataset.ErrCorrupt, dataset.ErrCorrupt},
		{context.Background(), dataset.Errorf(dataset.ErrInvalid, "bad key"), dataset.ErrInvalid, dataset.ErrInvalid},
		{ended, refusedConnection, dataset.ErrInternal, dataset.ErrInternal},
	} {
		for i, got := range []error{record.ReadError(c.ctx, c.err), record.CommitError(c.ctx, c.err)} {
			if want := []*dataset.Kind{c.read, c.write}[i]; dataset.KindOf(got) != want {
				t.Errorf("%v: %v, want %s", c.err, got, want.Code)
			}
			if c.ctx.Err() != nil && !errors.Is(got, context.Canceled) {
				t.Errorf("%v does not say that the caller has left", got)
			}
		}
	}
	if record.ReadError(ended, nil) != nil {
		t.Error("a late result without an error is an error")
	}
}
