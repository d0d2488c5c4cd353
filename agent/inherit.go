package agent

import (
	"context"
	"maps"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
)

// What an agent that is started anew goes on holding as the one before it did, whatever
// takes its time or does not answer at its start. Nothing is begun by it.

// standingKey holds what is needed to ask other nodes for promises with control away.
const standingKey = "standing"

type standingRecord struct {
	TTL   dataset.Duration          `json:"ttl"` // of a session
	Nodes map[uuid.UUID]nodeAddress `json:"nodes"`
}

// nodeAddress is where a node's agent answers.
type nodeAddress struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

func (a *Agent) loadStanding(ctx context.Context) error {
	var r standingRecord
	if there, err := a.DB.Get(ctx, standingKey, &r); err != nil || !there {
		return err
	}
	a.bounds.tenure.ttl = time.Duration(r.TTL)
	a.nodes.seen = make(map[uuid.UUID]dataset.Node, len(r.Nodes))
	for id, n := range r.Nodes {
		a.nodes.seen[id] = dataset.Node{ID: id, Name: n.Name, Address: n.Address}
	}
	a.nodes.saved = r
	return nil
}

// saveStanding puts it on disk where that says something else. Nodes come and go seldom.
func (a *Agent) saveStanding(ctx context.Context) error {
	_, ttl := a.Standing()
	if ttl == 0 {
		return nil // nobody is bounded in time, or nothing is known yet
	}
	a.nodes.saving.Lock()
	defer a.nodes.saving.Unlock()
	r := standingRecord{dataset.Duration(ttl), map[uuid.UUID]nodeAddress{}}
	a.nodes.mu.Lock()
	for id, n := range a.nodes.seen {
		r.Nodes[id] = nodeAddress{n.Name, n.Address}
	}
	a.nodes.mu.Unlock()
	if r.TTL == a.nodes.saved.TTL && maps.Equal(r.Nodes, a.nodes.saved.Nodes) {
		return nil
	}
	err := a.DB.Put(ctx, map[string]any{standingKey: r})
	if err == nil {
		a.nodes.saved = r
	}
	return err
}

// inherit takes in until when the process before this one was to hold what the guard has of
// this boot: a deadline that it fed was justified, so promises may carry that on. At another
// epoch than on record here it says nothing.
func (a *Agent) inherit(st guard.Status) {
	for _, e := range st.Datasets {
		d, home := a.Cache.Dataset(e.Dataset)
		if !home || !bounded(d) || e.State != guard.StateArmed || e.Boot != a.Boot || e.Epoch != d.Epoch {
			continue
		}
		a.bounds.mu.Lock()
		h := a.bounds.hold(d)
		h.deadline, h.fence = max(h.deadline, e.Deadline), e.Bound
		a.bounds.mu.Unlock()
	}
}
