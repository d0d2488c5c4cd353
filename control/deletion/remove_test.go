package deletion_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// A removal that overlaps a registration undoes nothing of the registration.
func TestRemovalBesideARegistration(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db")
	e.Spy.Before(func() {
		a.Incarnation = uuid.New()
		a.MustRegister("alpha")
	})
	e.OK(e.RemoveNode(e.Ctx, "alpha", api.NodeRemoval{Force: true}))
	var n dataset.Node
	if _, err := record.NewTx(e.Ctx, e.Spy).Get(record.NodeKey(a.ID), &n); err != nil || n.Incarnation != a.Incarnation || n.Removed.IsZero() {
		t.Errorf("record of the removed node: %+v, %v", n, err)
	}
}

func TestRemoveNode(t *testing.T) {
	e, ca := controltest.NewWithAuthority(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	id := controltest.NodeIdentity("alpha", a.ID)
	cert := controltest.Certificate(t, ca, id, controltest.Start)
	d := a.MustCreate("db@gold")
	e.OK(e.Revoked(id, cert))
	_, err := e.RemoveNode(e.Ctx, "alpha", api.NodeRemoval{})
	controltest.Refused(t, err, dataset.ErrInUse, "node alpha is the home of db: move them first", "--force")
	assert.NoErrorf(t, e.Revoked(id, cert), "a refusal had an effect")
	move := *e.MustSubmit(controltest.Move("db", "beta")).Operation // which b would do, because it is running
	n, err := e.RemoveNode(e.Ctx, "alpha", api.NodeRemoval{Force: true})
	if err != nil || n.Removed.IsZero() || !n.Cordoned {
		t.Fatalf("%+v, %v", n, err)
	}
	controltest.Refused(t, e.Revoked(id, cert), dataset.ErrRemoved, "node alpha ("+a.ID.String()+") was removed from the cluster")
	e.OK(e.Revoked(controltest.NodeIdentity("beta", b.ID), cert))
	// Nothing of the node is accepted any more, whatever a replica admits that has not learned of the removal.
	controltest.Refused(t, e.Register(e.Ctx, api.Registration{Node: dataset.Node{ID: a.ID, Name: "alpha", Incarnation: uuid.New()}}), dataset.ErrRemoved, "was removed")
	controltest.Refused(t, e.Heartbeat(e.Ctx, a.ID, api.Heartbeat{Incarnation: a.Incarnation}), dataset.ErrRemoved, "was removed")
	_, err = e.MakeToken(e.Ctx, api.NewToken{Name: "alpha"})
	controltest.Refused(t, err, dataset.ErrForbidden, "was removed")
	if v := e.MustVolume("db"); v.ID != d.ID || v.Home != a.ID {
		t.Errorf("the volume: %+v", v)
	}
	if op := e.MustOperation(move.ID); op.State.Final() {
		t.Errorf("the move to a reachable node: %+v", op)
	}
	// A repeated request changes nothing until the volume has another home.
	if n, err := e.RemoveNode(e.Ctx, a.ID.String()[:8], api.NodeRemoval{Force: true}); err != nil || n.Removed.IsZero() {
		t.Errorf("%+v, %v", n, err)
	}
	e.CheckInvariants()
}

// A node on which nothing depends is removed together with its pools, its pending operations and its copies.
func TestRemoveEmptyNode(t *testing.T) {
	e, ca := controltest.NewWithAuthority(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	a.MustCreate("db@gold")
	e.MustMove("db", a, b, "beta") // alpha keeps a copy
	b.MustCreate("web")
	towards := *e.MustSubmit(controltest.Move("web", "alpha")).Operation
	e.OK(e.RemoveNode(e.Ctx, "alpha", api.NodeRemoval{}))
	if op := e.MustOperation(towards.ID); op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, "was removed") {
		t.Errorf("%+v", op)
	}
	if e.Reports.Heartbeat(a.ID).Heard || !e.Reports.Heartbeat(b.ID).Heard {
		t.Error("the reports of the removed node are kept, or those of the other node are not")
	}
	entries, err := e.Spy.List(e.Ctx, "", "", 0)
	require.NoError(t, err)
	for _, entry := range entries {
		if strings.Contains(entry.Key, a.ID.String()) && entry.Key != record.RevokedNodeKey(a.ID) || strings.HasPrefix(entry.Key, record.PoolsPrefix) && strings.Contains(string(entry.Value), a.ID.String()) {
			t.Errorf("left: %s %s", entry.Key, entry.Value)
		}
	}
	if d := e.MustVolume("db"); len(d.Copies) != 0 || d.Home != b.ID {
		t.Errorf("%+v", d)
	}
	controltest.Refused(t, e.Revoked(controltest.NodeIdentity("alpha", a.ID), controltest.Certificate(t, ca, controltest.NodeIdentity("alpha", a.ID), e.Clock.Now())), dataset.ErrRemoved, "was removed")
	_, err = e.RemoveNode(e.Ctx, "alpha", api.NodeRemoval{})
	controltest.Refused(t, err, dataset.ErrInvalid, "unknown node")
	e.CheckInvariants()
}

// A replica that did not remove a node forgets its reports when it lists the nodes. In particular, the node's distrust
// of the store no longer counts.
func TestListingForgetsRemovedNodes(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	e.OK(e.RemoveNode(e.Ctx, "alpha", api.NodeRemoval{}))
	n, h := dataset.Node{ID: a.ID, Name: "alpha"}, api.Heartbeat{StoreDoubt: "an older epoch"}
	if _, err := e.Reports.RecordHeartbeat(n, h, e.Clock.Steady()); err != nil { // as on the other replica
		t.Fatal(err)
	}
	controltest.Refused(t, e.Reports.CheckTrust(), dataset.ErrConflict)
	e.Clock.Advance(time.Second)
	e.OK(e.NodeList(e.Ctx, ""))
	if e.Reports.Heartbeat(a.ID).Heard || !e.Reports.Heartbeat(b.ID).Heard {
		t.Error("the reports of the removed node are kept, or those of the other node are not")
	}
	e.OK(e.Reports.CheckTrust())
}

// I1: everything known of a node ends with its removal, also if its record is already gone and only its certificate
// is on record as revoked.
func TestRevokedNodeStaysOut(t *testing.T) {
	e, a := controltest.OneNode(t)
	_, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
		t.Delete(record.NodeKey(a.ID))
		return t.Put(record.RevokedNodeKey(a.ID), record.Revocation{Node: a.ID, At: controltest.Start, Until: controltest.Start.Add(time.Hour)})
	})
	require.NoError(t, err)
	r := api.Registration{Node: dataset.Node{ID: a.ID, Name: "alpha", Incarnation: uuid.New()}}
	assert.ErrorIsf(t, a.Register(a.Ctx, r), dataset.ErrRemoved, "it is admitted")
}

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
	_, err := l.SecondService.RemoveNode(t.Context(), "beta", api.NodeRemoval{Force: true})
	require.NoError(t, err)
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
	_, err := l.SecondService.Ledger.Store.Txn(t.Context(), nil, damaged)
	require.NoError(t, err)
	_, err = l.SecondService.RemoveNode(t.Context(), "gamma", api.NodeRemoval{})
	controltest.Refused(t, err, dataset.ErrCorrupt, "damaged")
	_, _ = l.SecondService.RemoveNode(t.Context(), "gamma", api.NodeRemoval{Force: true}) // fails later, at the damaged record
	var n dataset.Node
	if _, err := record.NewTx(t.Context(), l.SecondService.Ledger.Store).Get(record.NodeKey(l.Replica.ID), &n); err != nil || n.Removed.IsZero() {
		t.Errorf("the record of node gamma after a forced removal: %+v, %v; want that it is removed", n, err)
	}
}

// What a node was to destroy is removed from the records with the node. What other nodes have of it is removed once
// they have destroyed it. A removed node reports nothing any more.
func TestRemovedNodeWasToDestroy(t *testing.T) {
	e, _ := controltest.NewWithAuthority(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	b.MustCreate("db")
	d := e.MustMove("db", b, a, "alpha") // beta keeps a copy
	for i := range record.SnapshotsAtOnce + 1 {
		a.MustSnapshot("db", fmt.Sprint("s", i))
	}
	alone := a.MustCreate("web")
	for _, d := range []dataset.Dataset{d, alone} {
		a.MustDelete(d.Volume)
		e.MustSubmit(api.Request{ID: uuid.New(), Kind: dataset.OpPurge, Volume: d.ID.String()})
	}
	_, err := e.RemoveNode(e.Ctx, "alpha", api.NodeRemoval{})
	controltest.Refused(t, err, dataset.ErrInUse, "db (deleted, "+d.ID.String()[:8]+")", "--force")
	e.OK(e.RemoveNode(e.Ctx, "alpha", api.NodeRemoval{Force: true}))
	st := e.CheckInvariants()
	if left, there := st.Datasets[d.ID]; !there || left.Home != uuid.Nil || len(left.Copies) != 1 || len(st.Datasets) != 1 || len(st.Snapshots) != 0 {
		t.Errorf("left: %+v, %d snapshots", st.Datasets, len(st.Snapshots))
	}
	if _, err := e.RemoveNode(e.Ctx, "alpha", api.NodeRemoval{Force: true}); dataset.KindOf(err) != dataset.ErrInvalid {
		t.Errorf("the node is still on record: %v", err)
	}
	e.OK(e.ReportCopy(e.Ctx, b.ID, api.CopyReport{Incarnation: b.Incarnation, Copy: dataset.Copy{Dataset: d.ID, Node: b.ID}, Removed: true}))
	if st := e.CheckInvariants(); len(st.Datasets) != 0 {
		t.Errorf("left at the end: %+v", st.Datasets)
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
