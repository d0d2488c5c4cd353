package placement_test

import (
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// shortageReads are the reads of a round that checks whether a node can take a replica by now.
const shortageReads = 6

// A volume that had too few nodes for its replicas when it was created gets them as soon as a node can take one, and
// not only with the next full round: no record of the volume changes then. As long as no node changes, a round reads
// none of the volume's keys.
func TestReplicasComeWithTheNode(t *testing.T) {
	for name, c := range map[string]struct {
		away, back func(e *controltest.Control, b *controltest.Agent)
	}{
		"cordoned": {
			func(e *controltest.Control, b *controltest.Agent) {
				e.EditNode(b, func(n *dataset.Node) { n.Cordoned = true })
			},
			func(e *controltest.Control, b *controltest.Agent) {
				e.EditNode(b, func(n *dataset.Node) { n.Cordoned = false })
			},
		},
		"its pool is offline": {
			func(_ *controltest.Control, b *controltest.Agent) { b.ReportOnline(false) },
			func(_ *controltest.Control, b *controltest.Agent) { b.ReportOnline(true) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := controltest.New(t)
			e.AddReplicaProfile(1)
			a, b := e.NewAgent("alpha"), e.NewAgent("beta")
			agents := map[string]*controltest.Agent{"beta": b}
			op := a.MustPlan(controltest.Create("db@safe"))
			c.away(e, b) // after it was planned
			d := *a.MustCommit(op).Dataset
			e.Failures = nil
			e.Round()
			if len(copies(e, d.ID, agents)) > 0 || len(e.Failures) != 1 {
				t.Fatalf("%v has a copy; said: %v", copies(e, d.ID, agents), e.Failures)
			}
			if got := shownShortage(t, e); !strings.Contains(got, "node beta") && !strings.Contains(got, "beta/") {
				t.Errorf("volume inspect and status say %q; want the reason, and node beta", got)
			}
			e.Failures = nil
			e.Round()
			e.Spy.Counted()
			e.Round()
			if reads, txns, _ := e.Spy.Counted(); reads > shortageReads || txns > 0 {
				t.Errorf("a round in which no node changed: %d reads, %d transactions", reads, txns)
			}
			c.back(e, b)
			e.Round()
			if got := copies(e, d.ID, agents); got["beta"] != dataset.CopyReplica {
				t.Errorf("the node is back, and has %v", got)
			}
			if got := shownShortage(t, e); got != "" {
				t.Errorf("the volume has its replica, and is shown with a shortage: %q", got)
			}
			e.Round()
			e.Spy.Counted()
			e.Round()
			if reads, _, _ := e.Spy.Counted(); reads > 0 {
				t.Errorf("%d reads, though nothing is short any more", reads)
			}
		})
	}
}

// shownShortage returns the shortage of replicas that the volume db is shown with, alone and in the list for status.
func shownShortage(t *testing.T, e *controltest.Control) string {
	t.Helper()
	v, err := e.Service.Volume(t.Context(), "db")
	if err != nil {
		t.Fatal(err)
	}
	list, err := e.Service.VolumeSummaries(t.Context(), api.Page{Health: true})
	if err != nil || len(list.Items) != 1 {
		t.Fatal(list, err)
	}
	if got := list.Items[0].ReplicaShortage; got != v.ReplicaShortage {
		t.Errorf("the list has the shortage %q, and the volume %q", got, v.ReplicaShortage)
	}
	return v.ReplicaShortage
}
