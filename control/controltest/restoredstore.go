package controltest

import (
	"slices"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
)

// RestoredStore are some nodes of a cluster whose store goes back, with what each holds when it
// does.
type RestoredStore struct {
	*Replicas
	*Control
	Agents   map[string]*Agent
	Holdings map[string]api.Holdings
	Saved    []store.Entry
}

func NewRestoredStore(t *testing.T, names ...string) *RestoredStore {
	x := NewReplicas(t, 2)
	m := &RestoredStore{Replicas: x, Control: x.On(x.Services[0]), Agents: map[string]*Agent{}, Holdings: map[string]api.Holdings{}}
	m.Spy = NewSpyStore(x.Store)
	for _, name := range names {
		m.Agents[name] = m.NewAgent(name)
	}
	return m
}

// seen is an index above all that the store has when it was put back.
const SeenIndex = 1 << 40

// NoteHoldings keeps what every node holds now.
func (m *RestoredStore) NoteHoldings() {
	m.Control.Helper()
	for name, n := range m.Agents {
		h := api.Holdings{Incarnation: n.Incarnation}
		for _, p := range n.LocalPools {
			h.Pools = append(h.Pools, p.ID)
		}
		h.Found = m.Control.spyFound(n)
		h.Copies = n.MustSync(0).Copies
		m.Holdings[name] = h
	}
}

// RecoverWith asks for a recovery, with the nodes of these names telling what they hold.
func (m *RestoredStore) RecoverWith(r api.Recover, heard ...string) (api.Recovery, error) {
	m.Control.Helper()
	done := make(chan struct{})
	before, _ := m.Service.Recovery.Gathered()
	if r.Confirm == "" {
		for name, n := range m.Agents {
			if !slices.Contains(heard, name) {
				m.EndSession(n)
			}
		}
		go func() {
			defer close(done)
			of := before
			for of == before {
				of, _ = m.Service.Recovery.Gathered()
			}
			for _, name := range heard {
				h := m.Holdings[name]
				h.Recovery = of
				if err := m.Hold(m.Control.Ctx, m.Agents[name].ID, h); err != nil {
					m.Control.Errorf("%v", err)
				}
			}
		}()
	} else {
		close(done)
	}
	out, err := m.Recover(m.Control.Ctx, r)
	<-done
	return out, err
}

// MustRecover looks and confirms.
func (m *RestoredStore) MustRecover(heard ...string) api.Recovery {
	m.Control.Helper()
	r, err := m.RecoverWith(api.Recover{}, heard...)
	if err == nil {
		r, err = m.RecoverWith(api.Recover{Confirm: r.Digest}, heard...)
	}
	if err != nil || !r.Done {
		m.Control.Fatalf("%+v, %v", r, err)
	}
	return r
}
