package recovery_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/recovery"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// The holdings of a node that are kept in memory for a recovery are bounded as well, and are forgotten when the
// recovery is done.
func TestHoldingsAreBounded(t *testing.T) {
	m := controltest.NewRestoredStore(t, "alpha")
	a := m.Agents["alpha"]
	m.Saved = m.Save()
	a.MustCreate("db")
	back(m)
	for want, change := range map[string]func(h *api.Holdings){
		"100001 datasets (100000 at most)": func(h *api.Holdings) { h.Datasets = make([]api.FoundDataset, reports.MaxFound+1) },
		"257 pools (256 at most)":          func(h *api.Holdings) { h.ExaminedPools = make([]uuid.UUID, 257) },
		"200001 copies (200000 at most)":   func(h *api.Holdings) { h.Copies = make([]api.AssignedCopy, reports.MaxRemembered+1) },
		"200001 relinquished epochs":       func(h *api.Holdings) { h.Relinquished = make([]api.RelinquishedEpoch, reports.MaxRemembered+1) },
		"copy of dataset " + a.ID.String(): func(h *api.Holdings) {
			h.Copies = []api.AssignedCopy{{Copy: dataset.Copy{Dataset: a.ID, Kind: dataset.CopyKind(strings.Repeat("x", reports.MaxRecord))}}}
		},
		"dataset " + a.LocalPools[0].ID.String() + " ": func(h *api.Holdings) {
			h.Datasets = []api.FoundDataset{{Dataset: dataset.Dataset{ID: a.LocalPools[0].ID, RequestedAs: strings.Repeat("x", reports.MaxRecord)}}}
		},
	} {
		h := m.Holdings["alpha"]
		change(&h)
		controltest.Refused(t, m.ReportHoldings(t.Context(), a.ID, h), dataset.ErrInvalid, "holdings of node", want)
	}
	m.MustRecover("alpha")
	if _, reports := m.Service.Recovery.Collecting(); reports != 0 || m.Service.Recovery.CheckCollecting() == nil {
		t.Errorf("%d nodes' holdings are kept after the recovery", reports)
	}
	if v := m.MustVolume("db"); v.Home != a.ID {
		t.Errorf("%+v", v)
	}
}

// Holdings are accepted once a recovery was requested. They are kept until it is done, or until it was not confirmed
// for a long time.
func TestHoldingsAreForgotten(t *testing.T) {
	m := controltest.NewRestoredStore(t, "alpha")
	m.Saved = m.Save()
	m.Agents["alpha"].MustCreate("db")
	back(m)
	controltest.Refused(t, m.Service.Recovery.CheckCollecting(), dataset.ErrConflict, "not recovering")
	r, err := m.RecoverWith(api.Recover{}, "alpha")
	require.NoError(t, err)
	m.EndSession(m.Agents["alpha"]) // as the session would do by itself at some time of the next hour
	m.Control.Clock.Advance(recovery.ConfirmTimeout - 1)
	m.TakePart(m.Service)
	m.Service.Recovery.Expire() // before each renewal of its session
	if err := m.Service.Recovery.CheckCollecting(); err != nil || reportsOf(m.Service) != 1 {
		t.Errorf("forgotten early: %v", err)
	}
	m.Control.Clock.Advance(1)
	m.TakePart(m.Service)
	m.Service.Recovery.Expire() // before each renewal of its session
	controltest.Refused(t, m.Service.Recovery.CheckCollecting(), dataset.ErrConflict, "is not recovering")
	_, err = m.RecoverWith(api.Recover{Digest: r.Digest})
	controltest.Refused(t, err, dataset.ErrConflict, "start again")
	m.Agents["alpha"].Incarnation = uuid.New() // its session had ended
	m.Agents["alpha"].MustRegister("alpha")
	h := m.Holdings["alpha"]
	h.Incarnation = m.Agents["alpha"].Incarnation
	m.Holdings["alpha"] = h
	m.MustRecover("alpha")
	controltest.Refused(t, m.Service.Recovery.CheckCollecting(), dataset.ErrConflict, "is not recovering")
}

// reportsOf returns how many nodes have reported for the recovery in progress.
func reportsOf(s *control.Service) int {
	_, n := s.Recovery.Collecting()
	return n
}

// A compromised node reports a store clock near the largest integer. The recovery raises the clock, which does not
// overflow: decisions resume, and a later recovery can raise the clock again.
func TestRecoveryDespiteAnImpossibleClock(t *testing.T) {
	m := controltest.NewRestoredStore(t, "alpha", "evil")
	a, evil := m.Agents["alpha"], m.Agents["evil"]
	a.MustCreate("db@gold")
	for _, clock := range []uint64{math.MaxUint64, math.MaxUint64 - 1<<20, 1} {
		evil.ReportDistrust("it is older than what this node has seen")
		m.NoteHoldings()
		h := m.Holdings["evil"]
		h.StoreClock = clock
		m.Holdings["evil"] = h
		m.MustRecover("alpha", "evil")
		evil.ReportDistrust("")
		m.OK(m.Services[0].Ledger.ReadClock(t.Context()))
		a.MustCreate(fmt.Sprintf("new-%d@gold", clock))
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
