package operation_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
)

// Control could not know the size of a pool that had not reported yet: a volume that is larger than its whole pool is
// not created, and no volume grows to such a size.
func TestVolumeLargerThanPoolIsRefused(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	const huge = 1 << 60
	made, next := d, d
	made.ID, made.Profile.Size, next.Size = uuid.New(), huge, huge
	op := dataset.Operation{Volume: "db", DatasetID: made.ID, DatasetRecord: &made, Epoch: d.Epoch}
	_, err := r.Handler(dataset.OpCreate)(t.Context(), &host.Job{}, &op)
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), "less than 1048576TiB") {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("create", err)
	op.DatasetID, op.DatasetRecord = d.ID, &next
	_, err = r.Handler(dataset.OpResize)(t.Context(), &host.Job{}, &op)
	refused("resize", err)
	made.ID, made.Size = uuid.New(), huge
	op = dataset.Operation{Volume: "copy", DatasetID: made.ID, DatasetRecord: &made, Epoch: d.Epoch, Source: &dataset.Source{Dataset: d.ID}}
	_, err = r.Handler(dataset.OpCreate)(t.Context(), &host.Job{}, &op)
	refused("clone", err)
}
