package operation_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// An operation that waits for the dataset's lock while the volume is deleted changes nothing in the trash, and fails.
func TestOperationAfterDeleteChangesNothing(t *testing.T) {
	for _, req := range []api.Request{
		{Kind: dataset.OpResize, Size: "600MiB"},
		{Kind: dataset.OpRestore, Snapshot: "first"},
		{Kind: dataset.OpSnapshot, Name: "second"},
	} {
		t.Run(string(req.Kind), func(t *testing.T) {
			r := newLoopHost(t, 0)
			d := r.NewVolume("db", map[string]string{"size": "300MiB"})
			first := api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "first"}
			if err := r.Perform(t.Context(), first); err != nil {
				t.Fatal(err)
			}
			before, err := r.Pool().Stat(t.Context(), d.ID)
			if err != nil {
				t.Fatal(err)
			}
			unlock, err := r.Locks.Lock(t.Context(), d.ID, "test")
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			req.Volume = "db"
			go func() { ended <- r.Perform(t.Context(), req) }()
			agenttest.Await(t, func() bool { return r.Locks.Users(d.ID) == 2 })
			deleted, _ := r.Cache.Dataset(d.ID)
			deleted.State, deleted.Trash = dataset.StateTrashed, &dataset.Trash{At: d.Created}
			r.Cache.Apply(deleted, 0)
			unlock()
			if err := <-ended; !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "deleted meanwhile") {
				t.Errorf("%v", err)
			}
			after, err := r.Pool().Stat(t.Context(), d.ID)
			if err != nil || after.Record.Size != before.Record.Size || len(after.Snapshots) != len(before.Snapshots) {
				t.Errorf("%+v, %v, was %+v", after, err, before)
			}
		})
	}
}
