package control

import (
	"testing"

	"github.com/droverhq/drover/dataset"
)

// shortageReads are the reads of a round that looks whether a node can take a replica by now.
const shortageReads = 6

// A volume that found too few nodes for its replicas when it was made gets them as soon as a node can
// take one, and not with the next look at everything: nothing of the volume itself changes then. As
// long as no node changes, a round asks for none of its keys.
func TestReplicasComeWithTheNode(t *testing.T) {
	for name, c := range map[string]struct{ away, back func(e *env, b *agent) }{
		"cordoned": {
			func(e *env, b *agent) { e.edit(b, func(n *dataset.Node) { n.Cordoned = true }) },
			func(e *env, b *agent) { e.edit(b, func(n *dataset.Node) { n.Cordoned = false }) },
		},
		"its pool is offline": {
			func(_ *env, b *agent) { b.heard(false) },
			func(_ *env, b *agent) { b.heard(true) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.replicated(1)
			a, b := e.agent("alpha"), e.agent("beta")
			agents := map[string]*agent{"beta": b}
			op := a.plan(create("db@safe"))
			c.away(e, b) // after it was planned
			d := *a.commit(op).Dataset
			e.failures = nil
			e.rounds()
			if len(e.copies(d.ID, agents)) > 0 || len(e.failures) != 1 {
				t.Fatalf("%v has a copy; said: %v", e.copies(d.ID, agents), e.failures)
			}
			e.failures = nil
			e.rounds()
			e.spy.counted()
			e.rounds()
			if reads, txns, _ := e.spy.counted(); reads > shortageReads || txns > 0 {
				t.Errorf("a round in which no node changed: %d reads, %d transactions", reads, txns)
			}
			c.back(e, b)
			e.rounds()
			if got := e.copies(d.ID, agents); got["beta"] != dataset.CopyReplica {
				t.Errorf("the node is back, and has %v", got)
			}
			e.rounds()
			e.spy.counted()
			e.rounds()
			if reads, _, _ := e.spy.counted(); reads > 0 {
				t.Errorf("%d reads, though nothing is short any more", reads)
			}
		})
	}
}
