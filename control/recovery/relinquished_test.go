package recovery_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// I1: if a restored store gives a node an epoch that the node relinquished, a rebuild gives the dataset an epoch after
// the one that the other node may have opened.
func TestI1RebuildReplacesRelinquishedEpoch(t *testing.T) {
	for name, c := range map[string]struct {
		recorded     uint64 // the epoch in the store
		relinquished uint64 // 0: none
		change       func(e *controltest.Control, f *api.FoundDataset)
		action       string
		note         string
		epoch        uint64
	}{
		"nothing was relinquished": {recorded: 3, action: "known", epoch: 3},
		"the same epoch":           {recorded: 3, relinquished: 3, action: "restored", note: "gets a new one", epoch: 5},
		"an earlier epoch":         {recorded: 3, relinquished: 2, action: "known", epoch: 3},
		"a later epoch":            {recorded: 3, relinquished: 6, action: "restored", note: "gets a new one", epoch: 8},
		"the node knows a later change": {
			recorded: 3, relinquished: 3, action: "restored", note: "an older state", epoch: 5,
			change: func(_ *controltest.Control, f *api.FoundDataset) { f.Index = controltest.SeenIndex },
		},
		"the store does not know the dataset": {
			recorded: 3, relinquished: 3, action: "restored", epoch: 5,
			change: func(_ *controltest.Control, f *api.FoundDataset) {
				f.Dataset.ID, f.Dataset.Volume, f.Dataset.Epoch = uuid.New(), "other", 3
				f.Relinquished.Dataset = f.Dataset.ID
			},
		},
		"it is in the trash": {
			recorded: 3, relinquished: 3, action: "trashed", note: "gets a new one", epoch: 5,
			change: func(e *controltest.Control, f *api.FoundDataset) { e.Registered[0].MustDelete("db") },
		},
		"the move continues": {
			recorded: 3, relinquished: 3, action: "known", epoch: 3,
			change: func(e *controltest.Control, f *api.FoundDataset) {
				e.EditDataset(f.Dataset.ID, func(_ *dataset.Dataset, l *dataset.Lease) { l.State = dataset.LeaseMoving })
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, a := controltest.OneNode(t)
			d := a.MustCreate("db@gold")
			e.EditDataset(d.ID, func(d *dataset.Dataset, l *dataset.Lease) { d.Epoch, l.Epoch = c.recorded, c.recorded })
			f := api.FoundDataset{Pool: d.Pool, Dataset: d}
			if c.relinquished != 0 {
				f.Relinquished = &api.RelinquishedEpoch{Dataset: d.ID, Epoch: c.relinquished, ToNode: uuid.New()}
			}
			if c.change != nil {
				c.change(e, &f)
			}
			preview, err := a.Rebuild(e.Ctx, a.ID, []api.FoundDataset{f}, true)
			require.NoError(t, err)
			got := a.MustRebuild(f)[f.Dataset.ID]
			if got != preview[0] {
				t.Errorf("dry run: %+v, but the rebuild says %+v", preview[0], got)
			}
			if got.Action != c.action || !strings.Contains(got.Note, c.note) || c.note == "" && got.Note != "" {
				t.Errorf("got %+v, want %s with the note %q", got, c.action, c.note)
			}
			if epoch := datasetOf(e, f.Dataset.ID).Epoch; epoch != c.epoch {
				t.Errorf("it is at epoch %d, want %d", epoch, c.epoch)
			}
			if name == "the move continues" {
				return // no operation of this test is the move
			}
			e.CheckInvariants()
			if again := a.MustRebuild(f)[f.Dataset.ID]; c.change == nil && again.Action != "known" {
				t.Errorf("a second rebuild says %+v", again)
			}
		})
	}
}

// datasetOf returns the recorded dataset with a UUID.
func datasetOf(e *controltest.Control, id uuid.UUID) (d dataset.Dataset) {
	e.Helper()
	e.EditDataset(id, func(is *dataset.Dataset, _ *dataset.Lease) { d = *is })
	return d
}

// I1: the restored store may contain the request for the move. The move fails, and its volume can be used.
func TestI1RebuildEndsMoveOfRelinquishedEpoch(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	d := a.MustCreate("db@gold")
	op := *e.MustSubmit(controltest.Move("db", "beta")).Operation
	e.Registered = e.Registered[:1] // beta is gone
	e.Restart()
	got := a.MustRebuild(api.FoundDataset{
		Pool: d.Pool, Dataset: d,
		Relinquished: &api.RelinquishedEpoch{Dataset: d.ID, Epoch: d.Epoch, ToNode: b.ID},
	})[d.ID]
	now := e.MustVolume("db")
	if got.Action != "restored" || now.Epoch != d.Epoch+2 || now.Move != uuid.Nil || now.Home != a.ID {
		t.Errorf("got %+v, and the volume is %+v", got, now.Dataset)
	}
	if op = e.MustOperation(op.ID); op.State != dataset.OpFailed || op.Problem == nil {
		t.Errorf("the move is %s, %v", op.State, op.Problem)
	}
	e.CheckInvariants()
}

// I1: in a cluster, a rebuild does not replace the epoch, because the other node may have opened the next one.
func TestI1RebuildInClusterKeepsRelinquishedEpoch(t *testing.T) {
	x := controltest.NewReplicas(t, 1)
	a := x.On(x.Services[0]).NewAgent("alpha")
	d := a.MustCreate("db@gold")
	got := a.MustRebuild(api.FoundDataset{
		Pool: d.Pool, Dataset: d,
		Relinquished: &api.RelinquishedEpoch{Dataset: d.ID, Epoch: d.Epoch, ToNode: uuid.New()},
	})[d.ID]
	if now := a.MustVolume("db"); got.Action != "known" || now.Epoch != d.Epoch {
		t.Errorf("got %+v, and epoch %d", got, now.Epoch)
	}
}
