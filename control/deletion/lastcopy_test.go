package deletion_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// A node that keeps data which no other node has is removed only by force, and the removal names what was forgotten:
// a superseded head, or the last complete copy known of a volume whose home is lost or cannot open it.
func TestRemoveNodeThatKeepsTheLast(t *testing.T) {
	kind := func(k, was dataset.CopyKind) func(*dataset.Copy, *dataset.Node) {
		return func(c *dataset.Copy, _ *dataset.Node) { c.Kind, c.PreviousKind = k, was }
	}
	const last = "the last complete copy of db, whose home beta is lost or cannot open it"
	move := []string{last, "drover volume move db --force --fenced beta", "--force"}
	for what, c := range map[string]struct {
		then func(l *controltest.LastCopy)
		says []string // empty: it is not refused
	}{
		"the home is well":   {func(l *controltest.LastCopy) { l.EndSession(l.Left) }, nil},
		"another has it too": {func(l *controltest.LastCopy) { l.EndHome() }, nil},
		"that is away too":   {func(l *controltest.LastCopy) { l.EndHome(); l.EndSession(l.Left) }, move},
		"the home cannot open it": {func(l *controltest.LastCopy) {
			l.Home.ReportOpen(l.Dataset, "it is not in the pool")
			l.EndSession(l.Left)
		}, move},
		"it is condemned, and the home lost": {func(l *controltest.LastCopy) {
			l.EditCopy(l.Replica, kind(dataset.CopyCondemned, dataset.CopyReplica))
			l.EndHome()
			l.EndSession(l.Left)
		}, move},
		"it is not whole": {func(l *controltest.LastCopy) {
			l.EditCopy(l.Replica, func(c *dataset.Copy, _ *dataset.Node) { c.Snapshot = uuid.Nil })
			l.EndHome()
			l.EndSession(l.Left)
		}, nil},
		"it has a head that was overtaken": {func(l *controltest.LastCopy) { l.EditCopy(l.Replica, kind(dataset.CopySuperseded, "")) }, []string{"the superseded head of db on node gamma", "drover copy mount db gamma"}},
		"such a head, and it was discarded": {func(l *controltest.LastCopy) {
			l.EditCopy(l.Replica, kind(dataset.CopyCondemned, dataset.CopySuperseded))
		}, nil},
		"such a head, and the volume destroyed": {func(l *controltest.LastCopy) { l.EditCopy(l.Replica, kind(dataset.CopySuperseded, "")); l.Purge() }, nil},
	} {
		t.Run(what, func(t *testing.T) {
			l := controltest.NewLastCopy(t)
			l.ReportHomeWell()
			for name, g := range map[string]*controltest.Agent{"alpha": l.Left, "gamma": l.Replica} {
				l.Restart(g, name)
				g.ReportOnline(true)
			}
			c.then(l)
			preview, err := l.SecondService.RemoveNode(t.Context(), "gamma", api.NodeRemoval{Force: c.says != nil, DryRun: true})
			if err != nil || preview.Name != "gamma" || !preview.Live || !preview.Removed.IsZero() || (len(preview.Forgotten) == 1) != (c.says != nil) {
				t.Errorf("preview: %+v, %v", preview, err)
			}
			if c.says != nil {
				_, refused := l.SecondService.RemoveNode(t.Context(), "gamma", api.NodeRemoval{DryRun: true})
				controltest.Refused(t, refused, dataset.ErrInUse, c.says...)
				_, err := l.SecondService.RemoveNode(t.Context(), "gamma", api.NodeRemoval{})
				controltest.Refused(t, err, dataset.ErrInUse, append(c.says, "node gamma has data that no other node has")...)
				if v := l.SecondService.MustVolume("db"); len(v.CopyDetails) != 2 {
					t.Errorf("a refusal had an effect: %d copies", len(v.CopyDetails))
				}
			}
			out, err := l.SecondService.RemoveNode(t.Context(), "gamma", api.NodeRemoval{Force: c.says != nil})
			if err != nil || out.Name != "gamma" || (len(out.Forgotten) == 1) != (c.says != nil) || len(out.Forgotten) > 0 && !strings.Contains(out.Forgotten[0], c.says[0]) {
				t.Errorf("%+v, %v", out, err)
			}
			var told []string
			if err := l.SecondService.Events(t.Context(), 0, false, func(ev api.Event) error {
				if ev.Type == "volume.forget" {
					told = append(told, ev.Volume+": "+ev.Detail)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if (len(told) == 1) != (c.says != nil) || len(told) > 0 && !strings.Contains(told[0], out.Forgotten[0]) {
				t.Errorf("told: %q", told)
			}
		})
	}
}

// Copies on a removed node that were to stay on record for their homes are finally removed with the node, because
// nobody can get them from there any more.
func TestRemovedNodeIsForgotten(t *testing.T) {
	l := controltest.NewLastCopy(t)
	l.EndHome()
	if _, err := l.SecondService.RemoveNode(t.Context(), "beta", api.NodeRemoval{Force: true}); err != nil {
		t.Fatal(err)
	}
	l.Restart(l.Replica, "gamma")
	op := *l.SecondService.MustSubmit(api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", Node: "gamma", Force: true, Fenced: "beta"}).Operation
	l.Replica.MustCommit(op)
	kept := l.SecondService.MustVolume("db").CopyDetails
	if !slices.ContainsFunc(kept, func(k api.CopyDetail) bool { return k.Node == l.Home.ID && k.Kind == dataset.CopySuperseded }) {
		t.Fatalf("%+v", kept)
	}
	out, err := l.SecondService.RemoveNode(t.Context(), "beta", api.NodeRemoval{})
	if err != nil || len(out.Forgotten) != 1 {
		t.Errorf("%+v, %v", out, err)
	}
	if _, err := l.SecondService.RemoveNode(t.Context(), "beta", api.NodeRemoval{}); !errors.Is(err, dataset.ErrInvalid) {
		t.Errorf("it is still on record: %v", err)
	}
}

// A removal and its preview name the volumes whose only replica the node has. A replica that is not complete, and the
// copy that a move left, do not count.
func TestRemoveNodeNamesOnlyReplicas(t *testing.T) {
	replica := func(c *dataset.Copy, _ *dataset.Node) { c.Kind = dataset.CopyReplica }
	for what, c := range map[string]struct {
		then func(l *controltest.LastCopy)
		want []string
	}{
		"the only one": {func(l *controltest.LastCopy) { l.EditCopy(l.Replica, replica) }, []string{"db"}},
		"another node has one": {func(l *controltest.LastCopy) {
			l.EditCopy(l.Replica, replica)
			l.EditCopy(l.Left, replica)
		}, nil},
		"the other one is not complete": {func(l *controltest.LastCopy) {
			l.EditCopy(l.Replica, replica)
			l.EditCopy(l.Left, func(c *dataset.Copy, n *dataset.Node) { replica(c, n); c.Snapshot = uuid.Nil })
		}, []string{"db"}},
		"it is not complete": {func(l *controltest.LastCopy) {
			l.EditCopy(l.Replica, func(c *dataset.Copy, n *dataset.Node) { replica(c, n); c.Snapshot = uuid.Nil })
		}, nil},
		"the copy of a former home": {func(l *controltest.LastCopy) {
			l.EditCopy(l.Replica, func(c *dataset.Copy, _ *dataset.Node) { c.Kind = dataset.CopyLeft })
		}, nil},
		"the volume is deleted": {func(l *controltest.LastCopy) { l.EditCopy(l.Replica, replica); l.Purge() }, nil},
	} {
		t.Run(what, func(t *testing.T) {
			l := controltest.NewLastCopy(t)
			l.ReportHomeWell()
			for name, g := range map[string]*controltest.Agent{"alpha": l.Left, "gamma": l.Replica} {
				l.Restart(g, name)
				g.ReportOnline(true)
			}
			c.then(l)
			for _, dry := range []bool{true, false} {
				out, err := l.SecondService.RemoveNode(t.Context(), "gamma", api.NodeRemoval{DryRun: dry})
				if err != nil || !slices.Equal(out.Unprotected, c.want) {
					t.Errorf("dry run %v: unprotected volumes %q, %v; want %q", dry, out.Unprotected, err, c.want)
				}
			}
		})
	}
}

// A damaged record of a volume does not keep an administrator from revoking the certificate of a node with its replica.
func TestForcedRemovalDespiteDamagedRecord(t *testing.T) {
	l := controltest.NewLastCopy(t)
	l.Restart(l.Replica, "gamma")
	l.EditCopy(l.Replica, func(c *dataset.Copy, _ *dataset.Node) { c.Kind = dataset.CopyReplica })
	damaged := []store.Write{{Key: record.DatasetKey(l.Dataset.ID), Value: []byte(`{"id":`)}}
	if _, err := l.SecondService.Ledger.Store.Txn(t.Context(), nil, damaged); err != nil {
		t.Fatal(err)
	}
	_, err := l.SecondService.RemoveNode(t.Context(), "gamma", api.NodeRemoval{})
	controltest.Refused(t, err, dataset.ErrCorrupt, "damaged")
	_, _ = l.SecondService.RemoveNode(t.Context(), "gamma", api.NodeRemoval{Force: true}) // fails later, at the damaged record
	var n dataset.Node
	if _, err := record.NewTx(t.Context(), l.SecondService.Ledger.Store).Get(record.NodeKey(l.Replica.ID), &n); err != nil || n.Removed.IsZero() {
		t.Errorf("the record of node gamma after a forced removal: %+v, %v; want that it is removed", n, err)
	}
}
