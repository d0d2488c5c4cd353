package controltest

import (
	"slices"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/test/assert"
)

// RestoredStore is a cluster for tests that restore its store from a backup. A test keeps the backup in Saved. Holdings
// has what each node had at the last call of NoteHoldings.
type RestoredStore struct {
	*Replicas
	*Control
	Agents   map[string]*Agent
	Holdings map[string]api.Holdings
	Saved    []store.Entry
}

// SeenIndex is above every index of the store. Tests use it as an index, or as a store clock, that was seen before the
// store was restored.
const SeenIndex = 1 << 40

// NewRestoredStore returns a cluster with nodes of these names.
func NewRestoredStore(t *testing.T, names ...string) *RestoredStore {
	x := NewReplicas(t, 2)
	m := &RestoredStore{
		Replicas: x,
		Control:  x.On(x.Services[0]),
		Agents:   map[string]*Agent{},
		Holdings: map[string]api.Holdings{},
	}
	m.Spy = NewSpyStore(x.Store)
	for _, name := range names {
		m.Agents[name] = m.NewAgent(name)
	}
	return m
}

// NoteHoldings notes the present holdings of every node.
func (m *RestoredStore) NoteHoldings() {
	m.Control.Helper()
	for name, n := range m.Agents {
		h := api.Holdings{Incarnation: n.Incarnation}
		for _, p := range n.LocalPools {
			h.ExaminedPools = append(h.ExaminedPools, p.ID)
		}
		h.Datasets = m.Control.foundAtHome(n)
		h.Copies = n.MustSync(0).Copies
		m.Holdings[name] = h
	}
}

// RecoverWith asks for a recovery. The nodes whose names are in heard report their holdings. The sessions of all other
// nodes end.
func (m *RestoredStore) RecoverWith(r api.Recover, heard ...string) (api.Recovery, error) {
	m.Control.Helper()
	done := make(chan struct{})
	before, _ := m.Service.Recovery.Collecting()
	if r.Digest == "" {
		for name, n := range m.Agents {
			if !slices.Contains(heard, name) {
				m.EndSession(n)
			}
		}
		go func() {
			defer close(done)
			of := before
			for of == before {
				of, _ = m.Service.Recovery.Collecting()
			}
			for _, name := range heard {
				h := m.Holdings[name]
				h.Recovery = of
				assert.NoError(m.Control, m.ReportHoldings(m.Control.Ctx, m.Agents[name].ID, h))
			}
		}()
	} else {
		close(done)
	}
	out, err := m.Recover(m.Control.Ctx, r)
	<-done
	return out, err
}

// MustRecover asks for a recovery and confirms it. heard is as in RecoverWith.
func (m *RestoredStore) MustRecover(heard ...string) api.Recovery {
	m.Control.Helper()
	r, err := m.RecoverWith(api.Recover{}, heard...)
	if err == nil {
		r, err = m.RecoverWith(api.Recover{Digest: r.Digest}, heard...)
	}
	if err != nil || !r.Done {
		m.Control.Fatalf("recover: got %+v, %v, want done", r, err)
	}
	return r
}

// foundAtHome returns the datasets in the pools of a node whose home the node is.
func (e *Control) foundAtHome(n *Agent) []api.FoundDataset {
	all := n.FoundDatasets()
	all = slices.DeleteFunc(all, func(f api.FoundDataset) bool { return f.Dataset.Home != n.ID })
	for i := range all {
		all[i].Index = SeenIndex
	}
	return all
}
