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
